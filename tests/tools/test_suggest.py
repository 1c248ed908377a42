"""A suggested regex matches its group and nothing else; kinds and scopes by their tables."""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.fancy.pattern import compile_pattern
from sidecar.log.record import Record, decode
from sidecar.shaping.load import MergeOptions, load_shaping
from sidecar.shaping.mx import OfflineResolver
from sidecar.tools.shapes import shape
from sidecar.tools.suggest import Suggestion, Trial, kind_of, regexes, scope_of, toml_string
from sidecar.tools.unmatched import Group
from tests.kumod_writer import record

_WORD = st.sampled_from(
    ["mail", "rate", "from", "your", "blocked", "[TSS04]", "try", "later", "(S31)", "a.b*c", "$x"]
)
_VARYING = st.sampled_from(["{ip}", "{number}", "{address}", "{id}", "{host}"])
_TEXTS = st.lists(st.one_of(_WORD, _WORD, _VARYING), min_size=1, max_size=12).map(" ".join)


def responses(template: str, count: int) -> list[str]:
    """`count` responses that differ in what varies."""
    return [
        template.format(
            ip=f"10.{n}.0.{n + 1}",
            number=7 * n + 1,
            address=f"someone{n}@corp{n}.example",
            id=f"a{n}b{n:08d}-x{n}",
            host=f"mx{n}.corp.example",
        )
        for n in range(count)
    ]


def made(response: str, code: int = 421) -> Record:
    """The record of a response."""
    said = {"code": code, "enhanced_code": None, "content": response, "command": None}
    return decode(json.dumps(record(response=said)).encode())


@settings(deadline=None)
@given(
    template=_TEXTS,
    others=st.lists(_TEXTS, max_size=5),
    deliveries=st.lists(_TEXTS, max_size=5),
    count=st.integers(1, 4),
)
def test_a_suggested_regex_matches_its_samples_and_no_other_line(
    template: str, others: Sequence[str], deliveries: Sequence[str], count: int
) -> None:
    samples = [made(text) for text in responses(template, count)]
    wanted = shape(samples[0].response_line, samples[0].recipients[0])
    lines = samples + [made(text) for other in others for text in responses(other, 2)]
    lines += [made(text, 250) for other in deliveries for text in responses(other, 2)]
    trial = Trial(wanted)
    of_group = [trial.add(line) for line in lines]
    assert all(of_group[:count])
    pattern = trial.best()
    found = [pattern is not None and pattern.search(line.response_line) for line in lines]
    if pattern is None:
        # Then the strictest of them has a stranger to show for it.
        assert trial.stranger is not None
    else:
        assert [one is not None for one in found] == of_group


@given(_TEXTS)
def test_every_candidate_matches_what_it_is_made_of(template: str) -> None:
    text = made(responses(template, 1)[0]).response_line
    for regex in regexes(shape(text)):
        assert compile_pattern(regex).search(text) is not None, regex


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("550 5.1.1 <x> User unknown in virtual mailbox table", "mailbox"),
        ("452 4.2.2 The recipient's inbox is out of storage space.", "mailbox"),
        ("450 4.2.1 Greylisted, please try again later", "greylisting"),
        ("421 4.3.2 Too many concurrent connections from your host", "connections"),
        ("421 Trop de connexions, veuillez verifier", "connections"),
        ("421 4.7.28 an unusual rate of unsolicited mail", "rate"),
        ("451 4.7.650 temporarily rate limited due to IP reputation", "rate"),
        ("554 5.7.1 Client host blocked using zen.spamhaus.org", "block list"),
        ("550 5.7.1 poor reputation of your domain", "reputation"),
        ("550 5.7.26 blocked because the sender is unauthenticated", "authentication"),
        ("450 4.2.0 Mailbox temporarily unavailable, try again later", "mailbox"),
        ("421 4.7.0 Max message per connection reached", "messages per connection"),
        ("452 4.5.3 too many messages in this session", "messages per connection"),
        ("451 4.7.500 Server busy. Please try again later from [10.0.0.1]", "deferral"),
        ("421 4.7.0 [TSS04] temporarily deferred", "deferral"),
        ("554 5.7.1 try again later", None),
        ("421 4.3.0 see https://x.example/rate-limit", None),
        ("451 internal error", None),
    ],
)
def test_the_text_tells_what_it_is_about(text: str, kind: str | None) -> None:
    found = kind_of(text)
    assert (None if found is None else found.name) == kind


@given(st.text(max_size=50))
def test_any_text_is_a_toml_string(text: str) -> None:
    assert tomllib.loads(f"x = {toml_string(text)}")["x"] == text


@settings(deadline=None)
@given(st.text(min_size=1, max_size=80), st.sampled_from(["rate limit", "Spamhaus", "x"]))
def test_a_suggestion_is_toml_whatever_the_server_said(text: str, about: str) -> None:
    said = made(f"{text} {about}").response_line
    group = Group("abc123", shape(said), 0, 0, samples=[said])
    group.domains["example.com"] = group.sources["ip'1\x7f"] = 1
    one = Suggestion(group, regexes(group.shape)[-1], "default", "x", kind_of(group.shape))
    rules = tomllib.loads(one.rule())
    assert bool(rules) == one.acts
    assert "case" in tomllib.loads(one.test_case())


def test_the_scope_is_where_it_was_seen() -> None:
    shaping = asyncio.run(
        load_shaping((), options=MergeOptions.from_mapping({}), resolver=OfflineResolver())
    )

    def scope(**domains: str) -> str:
        group = Group("abc123", "x", 0, 0)
        for domain, site in domains.items():
            group.domains[f"{domain}.example"] += 1
            group.sites[site] += 1
        return scope_of(group, shaping, {})[0]

    assert scope(a="s1") == '"a.example"'
    assert scope(a="s1", b="s1") == '"a.example"'
    assert scope(a="s1", b="s2") == "default"
    assert scope(a="", b="") == "default"
