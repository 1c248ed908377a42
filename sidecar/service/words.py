"""Words: what an operator orders for a whole group.

In: an order on this host, or a word that another told.  Out: a :class:`Word`, which means the
same on every host; what it changes here, for one transaction.  An entry's id is each host's
own, and so is a hold's.  So a word names entries by filters or by their keys, and holds by
the name of the word that made them.

A word counts from the moment at which it was said.  What matched later, and came here
before the word, stays.  What was logged earlier, and comes later, strikes no more.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec.structs import replace

from sidecar.automation.decide import Outcome
from sidecar.automation.group import GroupAutomation
from sidecar.automation.holds import RuleHold
from sidecar.automation.selection import Selection
from sidecar.shaping.rules import Rule
from sidecar.store import Transaction
from sidecar.tools.stories import made_of

from .orders import Answer, Done, Order, Verb, about_of, unknown_rule_of
from .state import ids_given, kept_holds, progress

KEEP_NS: Final = 6 * 86400 * 10**9
"""How long a word is told again to an engine that lost it: less than an engine and the hosts
remember what they have heard."""

_NAME_MAX: Final = 300


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was ordered: ``selection`` has no ids; ``by`` names person and host.

    ``at_ns``: when it was said.  ``ends``: names of the words whose holds a release ends.
    """

    verb: Verb
    by: str
    at_ns: int
    selection: Selection = Selection()
    for_ns: int = 0
    reason: str = ""
    ends: tuple[str, ...] = ()

    def to_json(self) -> str:
        """As it travels."""
        return msgspec.json.encode(self).decode()


_DECODER = msgspec.json.Decoder(Word)


def word_from_json(data: bytes | str) -> Word:
    """What :meth:`Word.to_json` made; ValueError says what is wrong with it."""
    word = _DECODER.decode(data)
    if word.selection.ids or not 0 <= word.at_ns < 1 << 62 or not 0 <= word.for_ns < 1 << 62:
        raise ValueError("it is no word for a group")
    return word


def is_old(text: str, now_ns: int) -> bool:
    """Whether nobody needs a word any more; of one that can't be read too."""
    try:
        word = word_from_json(text)
    except ValueError:
        return True
    return word.at_ns + KEEP_NS < now_ns


def word_of(automation: GroupAutomation, order: Order, host: str, now_ns: int) -> Word:
    """The word for `order`, given on `host`."""
    selection, ids = order.selection, set(order.selection.ids)
    ends: tuple[str, ...] = ()
    if order.verb == "release":
        holds = (hold for hold in automation.holds if not ids or hold.id in ids)
        ends, selection = tuple(hold.word for hold in holds if hold.word), Selection()
    elif ids:
        keys = (entry.key for entry in automation.entries if _id(automation, entry.key) in ids)
        selection = replace(selection, ids=(), keys=tuple(keys))
    by = f"{order.by} at {host}"
    return Word(order.verb, by, now_ns, selection, order.for_ns, order.reason, ends)


def _id(automation: GroupAutomation, key: str) -> int:
    return automation.episodes[key].id


def order(
    automation: GroupAutomation,
    given: Order,
    name: str,
    *,
    host: str,
    now_ns: int,
    rules: Iterable[Rule],
) -> tuple[Done, Word | None]:
    """Do what was ordered on this host, for the group; the word to tell, None where refused."""
    unknown = unknown_rule_of(given.selection, rules)
    if given.verb != "release" and unknown is not None:
        refused = f"no rule is called {unknown!r}, by its name or file:line"
        return Done(Transaction(), Outcome(), Answer(refused=refused)), None
    word = word_of(automation, given, host, now_ns)
    done = obey(automation, word, f"{host}/{name}", now_ns)
    known = (*done.answer.cancelled, *done.answer.released)
    if given.verb == "release":
        known += tuple(_release_local(automation, given, done))
    unknown_ids = tuple(id_ for id_ in given.selection.ids if id_ not in known)
    answer = replace(done.answer, unknown=unknown_ids, released=tuple(sorted(known)))
    if given.verb != "release":
        answer = replace(answer, released=())
    return Done(done.changes, done.outcome, answer), word


def _release_local(automation: GroupAutomation, given: Order, done: Done) -> Iterable[int]:
    """End those holds that are this host's own matter."""
    ids = set(given.selection.ids)
    local = [h.id for h in automation.holds if not h.word and (not ids or h.id in ids)]
    gone = [hold.id for hold in automation.release(local)]
    done.changes.add(kept_holds((), gone))
    return gone


def obey(automation: GroupAutomation, word: Word, name: str, now_ns: int) -> Done:
    """Do what `word` says; `name`: what the group calls it."""
    if word.verb == "release":
        ids = [hold.id for hold in automation.holds if hold.word in word.ends and hold.word]
        gone = [hold.id for hold in automation.release(ids)]
        return Done(kept_holds((), gone), Outcome(), Answer(released=tuple(gone)))
    changes, outcome = Transaction(), Outcome()
    fitting = [
        entry
        for entry in automation.entries
        if word.selection.fits(entry, made_of(automation.episodes[entry.key]))
    ]
    if word.verb == "cancel" and word.selection:
        outcome = automation.take_back(
            [entry.key for entry in fitting],
            at_ns=word.at_ns,
            now_ns=now_ns,
            by=word.by,
            reason=word.reason,
        )
        changes.add(progress(automation))
        windows = {ended.episode.window for ended in outcome.ended} - {""}
        changes.drop_thresholds |= {w for w in windows if w not in automation.thresholds}
    held = []
    if word.selection and all(hold.word != name for hold in automation.holds):
        automation.episode_id += 1
        hold = RuleHold(
            id=automation.episode_id,
            selection=word.selection,
            made_ns=word.at_ns,
            until_ns=word.at_ns + word.for_ns,
            about=about_of(word.selection, fitting),
            by=word.by,
            reason=word.reason,
            word=name[:_NAME_MAX],
        )
        automation.hold(hold)
        held.append(hold)
    changes.add(kept_holds(held))
    changes.add(ids_given(automation))
    lasting = [hold for hold in held if hold.until_ns > now_ns]
    answer = Answer(
        cancelled=tuple(sorted(ended.episode.id for ended in outcome.ended)),
        held=lasting[0].id if lasting else 0,
        until_ns=lasting[0].until_ns if lasting else 0,
    )
    return Done(changes, outcome, answer)
