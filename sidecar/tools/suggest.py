"""A rule to start from: a group of unmatched responses in, the text of a rule out.

The regex comes from the group's shape.  Which of several is taken, the logs say:
the first that matches every response of the group, and no other line.  The scope
is where the group was seen.  The action comes from :data:`KINDS`, which says what
a text asks for; where none of them fits, it is left to the person.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from tempfile import NamedTemporaryFile
from typing import Final

from sidecar.fancy.pattern import Pattern, compile_pattern
from sidecar.log.blocks import Block
from sidecar.log.record import Record
from sidecar.problems import Problem
from sidecar.service.mx import resolve_all
from sidecar.settings import Settings
from sidecar.shaping.blocks import Shaping
from sidecar.shaping.mx import MxAnswer, Resolver

from .hindsight import Hindsight, Told
from .loading import rules_for_a_tool
from .shapes import PLACEHOLDERS, REPLY, shape
from .unmatched import Group, Wanted, records


@dataclass(frozen=True, slots=True)
class Kind:
    """What a response is about, how its text tells, and what helps.

    ``action`` and ``duration`` as a rule has them; None where no rule helps, and
    ``because`` says why.
    """

    name: str
    words: str
    because: str
    action: str | None = None
    duration: str | None = None


KINDS: Final = (
    Kind(
        "mailbox",
        r"user unknown|unknown (user|recipient)|no such (user|recipient|mailbox|address)"
        r"|mailbox (is )?(temporarily )?(full|unavailable|not found|disabled)"
        r"|does not exist|over ?quota"
        r"|out of storage|(invalid|bad) recipient|doesn't have an? \S+ account"
        r"|inactive (user|account)",
        "it is about one recipient: suspending others' mail does not help",
    ),
    Kind(
        "greylisting",
        r"gr[ae]y-?list",
        "kumod tries again by itself, and that is what is asked for",
    ),
    Kind(
        "authentication",
        r"unauthenticated|authentication (information|required|checks?)|\b(spf|dkim|dmarc)\b.*fail",
        "it is about how the mail is signed: no limit mends that",
    ),
    Kind(
        "connections",
        r"(too many|concurrent|simultaneous|maximum|max) (\w+ )?(connections|sessions)"
        r"|connection (limit|rate)|connexions",
        "it asks for fewer connections",
        '{SetConfig = {name = "connection_limit", value = 1}}',
        "1 hour",
    ),
    Kind(
        "messages per connection",
        r"(messages?|mails?|e-?mails?|deliveries) (per|in this|for this|on this) "
        r"(connection|session)",
        "it asks for fewer messages in one connection",
        '{SetConfig = {name = "max_deliveries_per_connection", value = 10}}',
        "1 hour",
    ),
    Kind(
        "rate",
        r"rate.?limit|throttl|too (many|much) (messages|mails?|e-?mails?)|frequency limited"
        r"|unusual rate|unexpected volume|too (fast|quickly)|slow down|exceeded .*(rate|limit)",
        "it asks for less mail at a time",
        '{SetConfig = {name = "max_message_rate", value = "1/s"}}',
        "1 hour",
    ),
    Kind(
        "block list",
        r"block ?list|black ?list|deny ?list|\b(dns|r)bl\b|blocked using|listed (in|on|at|by)"
        r"|spamhaus|barracuda|spamcop|cloudmark",
        "its sender is on a list: more mail makes that worse",
        '"Suspend"',
        "6 hours",
    ),
    Kind(
        "reputation",
        r"reputation|unsolicited|\bspam|complaints|\bblocked\b|\bbanned\b|suspicious"
        r"|policy (violation|reason)",
        "more mail makes that worse",
        '"Suspend"',
        "2 hours",
    ),
    Kind(
        "deferral",
        r"^4\d\d .*(try (it )?(again )?later|come back later|temporar(il)?y (deferred|rejected)"
        r"|temporary (server |system )?(error|problem)|\b(server|system) (is )?(too )?busy"
        r"|service (is )?(temporarily )?(unavailable|not available))",
        "it asks to come back later: mail waits here meanwhile",
        '"Suspend"',
        "15 minutes",
    ),
)
"""What texts are taken for; the first that fits counts."""


def kind_of(shape: str) -> Kind | None:
    """What a response of this shape is about; None where its text does not tell."""
    text = re.sub(r"https?://\S+", "", shape)
    return next((kind for kind in KINDS if re.search(kind.words, text, re.IGNORECASE)), None)


# The regex.

_LONG: Final = 60
_SPLIT: Final = re.compile("|".join(map(re.escape, PLACEHOLDERS)) + r"|<[^<>\s]*>|https?://\S+")
"""Placeholders, and what else is from one mail only: what stands in angle brackets, links."""
_EDGES: Final = " \t[](){}<>\"',;:#=-"
"""What stands around something that varies says nothing."""


def regexes(shape: str) -> list[str]:
    """Regexes that match every response of a shape, the plainest first."""
    reply = REPLY.match(shape)
    start = 0 if reply is None else reply.end()
    parts = [part.strip(_EDGES) for part in _SPLIT.split(shape[start:])]
    telling = max(parts, key=lambda part: sum(map(str.isalpha, part)), default="")
    found = [_escaped(mark) for mark in re.findall(r"\[[A-Z][A-Z0-9]+\]", shape)]
    if any(map(str.isalpha, telling)):
        found += [_escaped(_cut(telling)), _escaped(telling)]
        prefix = _escaped(shape[:start].strip())
        found += [f"^{prefix} .*{_escaped(telling)}"] if prefix else []
    # Not to the end: a long response has a shape of its first part only.
    found.append(f"^{'.*'.join(_escaped(part) for part in _SPLIT.split(shape))}")
    return list(dict.fromkeys(found))


def _cut(text: str) -> str:
    """The first sentence, or the first words of a long one."""
    sentence = text.partition(". ")[0]
    if len(sentence) >= _LONG // 3:
        text = sentence
    if len(text) <= _LONG:
        return text
    return text[:_LONG].rpartition(" ")[0] or text[:_LONG]


def _escaped(text: str) -> str:
    return re.sub(r"[\\.^$*+?{}\[\]|()]", r"\\\g<0>", text)


_KNOWN: Final = 4096


class Trial:
    """Candidate regexes, tried on every line of the logs that the group was found in."""

    def __init__(self, wanted: str) -> None:
        """`wanted`: the group's shape."""
        self._wanted = wanted
        self._patterns = [compile_pattern(regex) for regex in regexes(wanted)]
        self._missed = [0] * len(self._patterns)
        self._strange: list[str | None] = [None] * len(self._patterns)
        self._known: set[tuple[str, bool]] = set()

    def add(self, record: Record) -> bool:
        """Try them on the text of `record`; returns whether it is of the group."""
        text = record.response_line
        of_group = shape(text, record.recipients[0]) == self._wanted
        if (text, of_group) in self._known:
            return of_group
        if len(self._known) >= _KNOWN:
            self._known.clear()
        self._known.add((text, of_group))
        for number, pattern in enumerate(self._patterns):
            if (pattern.search(text) is not None) == of_group:
                continue
            if of_group:
                self._missed[number] += 1
            elif self._strange[number] is None:
                self._strange[number] = text
        return of_group

    def best(self) -> Pattern | None:
        """The first that matches all of the group and nothing else."""
        for pattern, missed, strange in zip(
            self._patterns, self._missed, self._strange, strict=True
        ):
            if not missed and strange is None:
                return pattern
        return None

    @property
    def stranger(self) -> str | None:
        """A response that is not of the group, and that the last of the regexes matches, too."""
        return self._strange[-1]


# The scope.


def scope_of(group: Group, shaping: Shaping, mx: dict[str, MxAnswer]) -> tuple[str, str]:
    """The table for a rule about `group`, as TOML has it, and why it is that one.

    `mx`: of the group's domains that resolve.
    """
    domains = list(group.domains)
    for name, provider in shaping.providers.items():
        if all(shaping.provider_matches(provider, d, mx.get(d)) for d in domains):
            return f"provider.{_quoted(name)}", f"all of it was to provider {_quoted(name)}"
    if len(domains) == 1:
        return _quoted(domains[0]), f"all of it was to {domains[0]}"
    sites = [site for site in group.sites if site]
    if len(sites) == 1 and len(group.sites) == 1:
        domain = group.domains.most_common(1)[0][0]
        return _quoted(domain), f"all of it was to one site, that of {domain}"
    return "default", f"it was to {len(sites) or 'unknown'} sites"


def _quoted(text: str) -> str:
    return f'"{"".join(map(_toml_letter, text))}"'


# The texts.


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A rule for a group, as text.  ``kind`` None: what it asks for is not clear."""

    group: Group
    regex: str
    table: str
    why_there: str
    kind: Kind | None

    @property
    def acts(self) -> bool:
        """Whether there is an action, so that the rule can be put into force as it is."""
        return self.kind is not None and self.kind.action is not None

    def rule(self) -> str:
        """The TOML of the rule; without an action it is a comment."""
        lines = [
            f"[[{self.table}.automation]]",
            f"regex = {toml_string(self.regex)}",
            *self._action(),
        ]
        if not self.acts:
            lines = [f"# {line}" for line in lines]
        return "\n".join([*self._head(), *lines]) + "\n"

    def _head(self) -> Iterator[str]:
        group = self.group
        like = "response like this one" if group.count == 1 else "responses like this one"
        yield f"# {group.count:,} {like} matched no rule:"
        yield f"# {_one_line(group.samples[0])}"
        for link in group.links:
            yield f"# {_one_line(link)}"
        yield f"# Here, because {self.why_there}."
        if self.kind is None:
            yield "# What it asks for is not clear from the text: choose an action and a duration."
        elif self.acts:
            yield f"# It is about the {self.kind.name}: {self.kind.because}."
        else:
            yield f"# No rule is suggested: {self.kind.because}."

    def _action(self) -> Sequence[str]:
        if self.kind is None:
            return ('action = "Suspend"  # or another', 'duration = "1 hour"')
        if self.kind.action is None:
            return ()
        return f"action = {self.kind.action}", f"duration = {_quoted(self.kind.duration or '')}"

    def test_case(self) -> str:
        """A case for a file of ``tsa-sidecar test``."""
        group = self.group
        domain = group.domains.most_common(1)[0][0]
        source = group.sources.most_common(1)[0][0]
        does = "acts" if self.acts else "does nothing"
        lines = [
            "[[case]]",
            f"name = {_quoted(f'group {group.name} {does}')}",
            f"domain = {_quoted(domain)}",
            f"source = {_quoted(source)}",
            "",
            "[[case.record]]",
            f"response = {toml_string(group.samples[0])}",
            "",
            "[[case.expect]]",
            self._expected(),
        ]
        return "\n".join(lines) + "\n"

    def _expected(self) -> str:
        if not self.acts:
            return "nothing = true"
        assert self.kind is not None
        duration = f"expires_in = {_quoted(self.kind.duration or '')}"
        option = re.search(r'name = ("\w+"), value = ([^}]+)', self.kind.action or "")
        if option is None:
            return f"suspended = [{{{duration}}}]"
        return f"overrides = [{{option = {option[1]}, value = {option[2]}, {duration}}}]"


def toml_string(text: str) -> str:
    """`text` as a TOML string: a literal one where that is possible."""
    if "'" not in text and text.isprintable():
        return f"'{text}'"
    return f'"{"".join(map(_toml_letter, text))}"'


def _toml_letter(letter: str) -> str:
    if letter in '"\\':
        return f"\\{letter}"
    return letter if letter.isprintable() else f"\\U{ord(letter):08x}"


def _one_line(text: str) -> str:
    """For a comment: no control characters, of bounded length."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    return shown if len(shown) <= 300 else f"{shown[:300]}…"


# What it would have done.


async def would_have_done(
    suggestion: Suggestion,
    blocks: AsyncIterator[Block],
    *,
    settings: Settings,
    resolver: Resolver,
    wanted: Wanted,
) -> tuple[list[Told], Sequence[Problem]]:
    """The episodes that the rule alone would have made of the logs.

    The rule is loaded behind the shaping files in force, as a user would add it.  Also the
    problems that the rules have then.
    """
    with NamedTemporaryFile("w", suffix=".toml", encoding="utf-8") as file:
        file.write(suggestion.rule())
        file.flush()
        shaping = (*settings.reloaded.shaping, file.name)
        more = replace(settings, reloaded=replace(settings.reloaded, shaping=shaping))
        rules = await rules_for_a_tool(more, resolver)
    side, now_ns = Hindsight(rules), 0
    async for block in blocks:
        found = [
            (record, candidate)
            for record, domain, candidate in records(block, rules)
            if candidate is not None and wanted.takes(record, domain)
        ]
        mx = await resolve_all((candidate for _, candidate in found), resolver)
        for record, candidate in found:
            now_ns = max(now_ns, record.time_ns)
            side.expire(now_ns)
            for match in candidate.matches(mx.get(candidate.domain)):
                if match.rule.file == file.name:
                    side.decide(candidate.alone(match), None, now_ns)
    return side.told, rules.problems
