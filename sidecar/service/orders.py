"""What an operator orders: cancel, hold, release.  Carried out on the automation's state.

In: an :class:`Order`, the automation, the time.  Out: what it changes, for one
transaction, and an answer for the operator.  The service does it, or the command line
where no service runs: both by :func:`carry_out`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import msgspec

from sidecar.automation.decide import Automation, Outcome
from sidecar.automation.entries import Entry
from sidecar.automation.holds import RuleHold
from sidecar.automation.selection import Made, Selection, fits_rule
from sidecar.shaping.rules import Rule
from sidecar.store import Transaction
from sidecar.tools.stories import made_of
from sidecar.tools.text import shown_entry

from .state import ids_given, kept_holds

Verb = Literal["cancel", "hold", "release"]
_ABOUT_MAX = 300


class Order(msgspec.Struct, frozen=True):
    """What is ordered, by whom and why.

    ``cancel``: what is in force and ``selection`` means; ``hold``: ``selection`` for
    ``for_ns`` (a cancel may do this, too); ``release``: the holds with the
    selection's ids, all of them where it is empty.  ``here``: it is for this host only,
    though there be a group.
    """

    verb: Verb
    selection: Selection
    for_ns: int = 0
    by: str = ""
    reason: str = ""
    here: bool = False


class Answer(msgspec.Struct, frozen=True):
    """What was done: ids of entries and holds.

    ``refused`` says why nothing was.  ``unknown``: ids of nothing in force.  ``until_ns``
    is the end of the hold ``held``, 0 where there is none.
    """

    refused: str = ""
    cancelled: tuple[int, ...] = ()
    unknown: tuple[int, ...] = ()
    held: int = 0
    until_ns: int = 0
    released: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """An order that has been carried out: what is to be committed, and the answer."""

    changes: Transaction
    outcome: Outcome
    answer: Answer


def carry_out(
    automation: Automation, order: Order, now_ns: int, rules: Iterable[Rule] | None
) -> Done:
    """Do what `order` says.

    `rules`: those in force, so that one which is not among them is refused; None
    where they are not known.
    """
    if order.verb == "release":
        return _release(automation, order)
    unknown_rule = None if rules is None else unknown_rule_of(order.selection, rules)
    if unknown_rule is not None:
        refused = f"no rule is called {unknown_rule!r}, by its name or file:line"
        return Done(Transaction(), Outcome(), Answer(refused=refused))
    fitting = {
        entry.key: entry
        for entry in automation.entries
        if order.selection.fits(entry, made_of(automation.episodes[entry.key]))
    }
    ids = {automation.episodes[key].id for key in fitting}
    unknown = tuple(id_ for id_ in order.selection.ids if id_ not in ids)
    changes, outcome = Transaction(), Outcome()
    if order.verb == "cancel" and fitting:
        outcome = automation.cancel(
            fitting, now_ns=now_ns, how="cancelled", by=order.by, reason=order.reason
        )
        windows = {ended.episode.window for ended in outcome.ended} - {""}
        changes.drop_thresholds |= windows
    held = _holds(automation, order, fitting, now_ns)
    changes.add(kept_holds(held))
    changes.add(ids_given(automation))
    lasting = [hold for hold in held if hold.until_ns > now_ns]
    answer = Answer(
        cancelled=tuple(sorted(ended.episode.id for ended in outcome.ended)),
        unknown=unknown,
        held=lasting[0].id if lasting else 0,
        until_ns=lasting[0].until_ns if lasting else 0,
    )
    return Done(changes, outcome, answer)


def _holds(
    automation: Automation, order: Order, fitting: dict[str, Entry], now_ns: int
) -> list[RuleHold]:
    """Make the holds that go with `order`, where `fitting` are the entries that it means."""
    found, by_id = [], bool(order.selection.ids)
    if fitting and (order.verb == "cancel" or by_id):
        # Lines that were logged before, and are read later, must not strike again.
        until_ns = now_ns + (order.for_ns if by_id else 0)
        keys = Selection(keys=tuple(fitting))
        found.append(_hold(automation, order, keys, fitting, (now_ns, until_ns)))
    if order.for_ns and not by_id:
        span = now_ns, now_ns + order.for_ns
        found.append(_hold(automation, order, order.selection, fitting, span))
    return found


def _hold(
    automation: Automation,
    order: Order,
    selection: Selection,
    fitting: dict[str, Entry],
    span: tuple[int, int],
) -> RuleHold:
    automation.episode_id += 1
    hold = RuleHold(
        id=automation.episode_id,
        selection=selection,
        made_ns=span[0],
        until_ns=span[1],
        about=about_of(selection, fitting.values()),
        by=order.by,
        reason=order.reason,
    )
    automation.hold(hold)
    return hold


def about_of(selection: Selection, fitting: Iterable[Entry]) -> str:
    """What a hold of `selection` is about, in words."""
    about = "; ".join(map(shown_entry, fitting)) if selection.keys else said(selection)
    return about if len(about) <= _ABOUT_MAX else about[:_ABOUT_MAX] + "…"


def _release(automation: Automation, order: Order) -> Done:
    known = {hold.id for hold in automation.holds}
    wanted = order.selection.ids or tuple(sorted(known))
    gone = [hold.id for hold in automation.release(wanted)]
    answer = Answer(released=tuple(gone), unknown=tuple(id_ for id_ in wanted if id_ not in known))
    return Done(kept_holds((), gone), Outcome(), answer)


def unknown_rule_of(selection: Selection, rules: Iterable[Rule]) -> str | None:
    """A text of the selection's rules that fits none of `rules`."""
    known = [Made(rule=rule.sidecar.name, place=f"{rule.file}:{rule.line}") for rule in rules]
    for text in selection.rules:
        if not any(fits_rule((text,), made) for made in known):
            return text
    return None


def said(selection: Selection) -> str:
    """The filters of a selection in words."""
    fields = ("rules", "domains", "sites", "sources", "tenants", "campaigns", "kinds")
    return ", ".join(
        f"{name.removesuffix('s')} {' or '.join(texts)}"
        for name in fields
        if (texts := getattr(selection, name))
    )
