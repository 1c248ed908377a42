"""Merging, effective options, and the laws that merging obeys."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.problems import ProblemError
from sidecar.shaping.blocks import Block, ProviderBlock, overlay
from sidecar.shaping.file import FileBlock, FileProvider, ProviderMatch, ShapingFile
from sidecar.shaping.load import MergeOptions, Shaping, load_shaping, merge_files
from sidecar.shaping.mx import MxAnswer, MxError, OfflineResolver, ZoneResolver
from sidecar.shaping.options import MERGEABLE, Option
from sidecar.times import NS

from .nameserver import nameserver
from .shared import errors, load, shown
from .test_mx import Clock, Zones, mx, resolver_of, run

RULE = 'regex = "{}"\naction = "Suspend"\nduration = "1h"\n'
ZONES = ZoneResolver(
    [
        "$ORIGIN one.test.\n@ 60 IN MX 5 mx.shared.test.\n",
        "$ORIGIN two.test.\n@ 60 IN MX 5 mx.shared.test.\n",
        "$ORIGIN mixed.test.\n@ 60 IN MX 5 mx.shared.test.\n@ 60 IN MX 5 mx.other.test.\n",
        "$ORIGIN null.test.\n@ 60 IN MX 0 .\n",
    ]
)


def mx_of(domain: str) -> MxAnswer | None:
    try:
        return asyncio.run(ZONES.resolve(domain))
    except MxError:
        return None


def values(options: Mapping[str, Option]) -> dict[str, Any]:
    return {name: option.value for name, option in options.items()}


def path(shaping: Shaping, domain: str, source: str = "ip1") -> dict[str, Any]:
    mx = mx_of(domain)
    site = "" if mx is None else mx.site_name
    return values(shaping.egress_path(domain, source, site, mx))


# Merging


def test_later_files_replace_options_and_append_rules(tmp_path: Path) -> None:
    shaping = load(
        tmp_path,
        '["a.com"]\nmax_ready = 1\nsmtp_port = 26\n[["a.com".automation]]\n' + RULE.format("one"),
        '["a.com"]\nmax_ready = 2\n[["a.com".automation]]\n' + RULE.format("two"),
    )
    block = shaping.sites["a.com"]
    assert values(block.options) == {"max_ready": 2, "smtp_port": 26}
    assert [r.regexes[0].source for r in block.rules] == ["one", "two"]
    assert [(Path(o.file).name, o.line) for o in block.options.values()] == [
        ("f1.toml", 2),
        ("f0.toml", 3),
    ]
    assert block.options["max_ready"].scope == '["a.com"]'


def test_the_three_tables_merge_by_inner_key_and_remember_where_each_came_from(
    tmp_path: Path,
) -> None:
    shaping = load(
        tmp_path,
        "[default]\nadditional_connection_limits = {a = 1, b = 2}\n",
        "[default]\nadditional_connection_limits = {b = 3, c = 4}\nskip_hosts = []\n",
    )
    assert shaping.default is not None
    option = shaping.default.options["additional_connection_limits"]
    assert option.value == {"a": 1, "b": 3, "c": 4}
    assert {k: Path(o.file).name for k, o in option.inner.items()} == {
        "a": "f0.toml",
        "b": "f1.toml",
        "c": "f1.toml",
    }


def test_replace_base_throws_away_what_earlier_files_said(tmp_path: Path) -> None:
    base = (
        '["a.com"]\nmax_ready = 1\n[["a.com".automation]]\n'
        + RULE.format("one")
        + '["a.com".sources.ip1]\nmax_ready = 5\n'
        '[provider.p]\nmatch = [{DomainSuffix=".x"}]\nprovider_connection_limit = 5\n'
        'provider_max_message_rate = "5/s"\nmax_ready = 6\n'
    )
    later = '["a.com"]\nreplace_base = true\nsmtp_port = 26\n[provider.p]\nreplace_base = true\n'
    shaping = load(tmp_path, base, later)
    block, provider = shaping.sites["a.com"], shaping.providers["p"]
    assert values(block.options) == {"smtp_port": 26}
    assert (block.rules, dict(block.sources)) == ((), {})
    assert (provider.matches, provider.connection_limit, dict(provider.options)) == ((), None, {})
    assert provider.max_message_rate is not None, "upstream keeps it, whatever later files say"


def test_a_providers_rate_counts_only_in_the_first_file_that_names_it(tmp_path: Path) -> None:
    shaping = load(
        tmp_path,
        "[provider.p]\nprovider_connection_limit = 1\n",
        '[provider.p]\nprovider_connection_limit = 2\nprovider_max_message_rate = "5/s"\n',
    )
    provider = shaping.providers["p"]
    assert provider.max_message_rate is None
    assert provider.connection_limit is not None
    assert provider.connection_limit.value == "2"


def test_domains_of_one_site_share_a_block(tmp_path: Path) -> None:
    shaping = load(
        tmp_path,
        '["one.test"]\nmax_ready = 1\n',
        '["two.test"]\nmax_ready = 2\n["one.test"]\nmx_rollup = false\nmax_ready = 3\n',
        options=MergeOptions.all_warn(),
        resolver=ZONES,
    )
    assert values(shaping.sites["mx.shared.test"].options) == {"max_ready": 2}
    assert shaping.sites["mx.shared.test"].domains == ("one.test", "two.test")
    assert values(shaping.domains["one.test"].options) == {"max_ready": 3}
    (warning,) = shaping.warnings
    assert warning.code == "aliased-site"
    assert "mx.shared.test: one.test, two.test" in warning.message


def test_scope_and_rollup_of_rules_follow_where_they_stand(tmp_path: Path) -> None:
    text = (
        "[[default.automation]]\n" + RULE.format("a") + '[["one.test".automation]]\n'
        + RULE.format("a") + '["x.y"]\nmx_rollup = false\n[["x.y".automation]]\n'
        + RULE.format("a") + "[[provider.p.automation]]\n" + RULE.format("a")
    )  # fmt: skip
    rules = load(tmp_path, text, resolver=ZONES).all_rules()
    assert [(r.scope.kind, r.scope.name, r.rollup) for r in rules] == [
        ("default", "", True),
        ("provider", "p", False),
        ("site", "mx.shared.test", True),
        ("domain", "x.y", False),
    ]
    assert len({r.hash for r in rules}) == 2, "the hash tells rules by content and rollup"


def test_blocks_without_an_mx_are_ignored_at_the_level_asked_for(tmp_path: Path) -> None:
    text = '["gone.test"]\nmax_ready = 1\n["null.test"]\nmax_ready = 1\n["a b"]\nmax_ready = 1\n'
    silent = load(tmp_path, text, resolver=ZONES)
    assert (silent.warnings, silent.errors, dict(silent.sites)) == ((), (), {})
    assert set(silent.unresolved) == {"gone.test", "a b"}
    strict = MergeOptions(dns_fail="Error", null_mx="Warn")
    shaping = load(tmp_path, text, options=strict, resolver=ZONES)
    assert [(p.code, p.level) for p in shaping.errors] == [("mx-failed", "error")] * 2
    assert [(p.code, p.line) for p in shaping.warnings] == [("null-mx", 3)]


def test_a_bad_option_that_is_not_left_after_the_merge_is_a_warning(tmp_path: Path) -> None:
    bad = '["gone.test"]\nnope = 1\n["one.test"]\nnope = 1\nmax_ready = "x"\n'
    shaping = load(
        tmp_path, bad, '["one.test"]\nreplace_base = true\nmax_ready = 5\n', resolver=ZONES
    )
    assert [(p.code, p.level, p.line) for p in shaping.warnings] == [
        ("unknown-option", "warning", 2),
        ("unknown-option", "warning", 4),
        ("bad-value", "warning", 5),
    ]
    assert [p.line for p in errors(tmp_path, bad)] == [2, 4, 5], "offline, all three are left"


def test_an_unquoted_domain_has_one_finding_of_its_own(tmp_path: Path) -> None:
    shaping = load(
        tmp_path,
        "[comcast.net]\nconnection_limit = 1\n",
        options=MergeOptions.all_warn(),
        resolver=ZONES,
    )
    assert [p.code for p in shaping.warnings] == ["one-label-domain", "mx-failed"]
    assert shown(errors(tmp_path, "[comcast.net]\nconnection_limit = 1\n"), tmp_path) == [
        'f0.toml:1: ["comcast"]: unknown option "net": no egress path option is called so'
    ]


def test_a_bad_provider_source_rate_loads_with_a_warning(tmp_path: Path) -> None:
    shaping = load(tmp_path, "[provider.p.sources.ip1]\nprovider_source_selection_rate = 5\n")
    assert [(p.code, p.level, p.line) for p in shaping.warnings] == [("bad-value", "warning", 2)]


def test_the_hash_is_of_the_content(tmp_path: Path) -> None:
    text = '["a.com"]\nmax_ready = 1\n[["a.com".automation]]\n' + RULE.format("one")
    first = load(tmp_path, text)
    assert load(tmp_path, "\n\n# moved\n" + text).hash == first.hash
    assert load(tmp_path, text.replace("max_ready = 1", "max_ready = 2")).hash != first.hash
    assert load(tmp_path, text.replace("one", "two")).hash != first.hash
    assert load(tmp_path, text + '[provider.p]\nmatch = [{HostName="a"}]').hash != first.hash


def test_expiry_is_that_of_the_answer_that_ages_first(tmp_path: Path) -> None:
    class Aging(OfflineResolver):
        async def resolve(self, domain: str) -> MxAnswer:
            if domain == "bad.test":
                raise MxError(domain, "timed out", 5 * NS)
            return dataclasses.replace(await super().resolve(domain), expires_ns=9 * NS)

    assert load(tmp_path, '["a.test"]\n', resolver=Aging()).expires_ns == 9 * NS
    assert load(tmp_path, '["a.test"]\n["bad.test"]\n', resolver=Aging()).expires_ns == 5 * NS


def test_a_stale_answer_stands_with_a_warning(tmp_path: Path) -> None:
    class Stale(OfflineResolver):
        async def resolve(self, domain: str) -> MxAnswer:
            return dataclasses.replace(await super().resolve(domain), stale="SERVFAIL")

    shaping = load(tmp_path, '["a.test"]\nmax_ready = 1\n', resolver=Stale())
    assert "a.test" in shaping.sites
    assert [p.code for p in shaping.warnings] == ["mx-stale"]


def test_merge_options_come_from_settings() -> None:
    options = MergeOptions.from_mapping(
        {"dns_fail": "Warn", "skip_remote": True, "http_timeout": 1_500_000_000}
    )
    assert (options.dns_fail, options.skip_remote, options.http_timeout) == ("Warn", True, 1.5)
    assert options.local_load == "Error"


# Effective options

LAYERS = """
[default]
max_ready = 1
smtp_port = 1
enable_tls = "Required"
idle_timeout = 1
data_timeout = 1
[default.sources.ip1]
max_ready = 99
[provider.p]
match = [{MXSuffix=".shared.test"}]
smtp_port = 2
idle_timeout = 2
[provider.p.sources.ip1]
idle_timeout = 3
data_timeout = 3
connect_timeout = 3
["one.test"]
data_timeout = 4
connect_timeout = 4
[ "one.test".sources.ip1]
connect_timeout = 6
"""


def test_each_step_overrides_the_one_before(tmp_path: Path) -> None:
    domain = '["one.test"]\nmx_rollup = false\nconnect_timeout = 5\nmax_ready = 5\n'
    shaping = load(tmp_path, LAYERS, domain, resolver=ZONES)
    assert path(shaping, "one.test") == {
        "max_ready": 5,
        "smtp_port": 2,
        "enable_tls": "Required",
        "provider_name": "p",
        "idle_timeout": 3,
        "data_timeout": 4,
        "connect_timeout": 6,
    }
    assert path(shaping, "one.test", "ip2")["connect_timeout"] == 5
    assert path(shaping, "one.test", "ip2")["idle_timeout"] == 2
    assert path(shaping, "two.test")["connect_timeout"] == 6
    assert path(shaping, "gone.test") == {
        "max_ready": 1,
        "smtp_port": 1,
        "enable_tls": "Required",
        "idle_timeout": 1,
        "data_timeout": 1,
    }


def test_a_first_block_with_replace_base_discards_default_and_providers(tmp_path: Path) -> None:
    text = LAYERS.replace('["one.test"]\n', '["one.test"]\nreplace_base = true\n')
    assert path(load(tmp_path, text, resolver=ZONES), "one.test") == {
        "data_timeout": 4,
        "connect_timeout": 6,
    }


def test_what_a_provider_implies(tmp_path: Path) -> None:
    text = (
        "[default]\nadditional_connection_limits = {mine = 1}\n"
        '[provider.p]\nmatch = [{DomainSuffix=".test"}]\nprovider_connection_limit = "local:1_0"\n'
        'provider_max_message_rate = "600/10min"\nprovider_name = "mine"\n'
        '[provider.p.sources.ip1]\nprovider_source_selection_rate = "5/hr"\n'
        '[provider.q]\nmatch = [{MXSuffix="shared.test"}]\nprovider_connection_limit = 7\n'
    )
    shaping = load(tmp_path, text, resolver=ZONES)
    assert path(shaping, "one.test") == {
        "provider_name": "p",
        "additional_connection_limits": {
            "mine": 1,
            "shaping-provider-p-ip1-limit": "local:10",
            "shaping-provider-q-ip1-limit": "7",
        },
        "additional_message_rate_throttles": {"shaping-provider-p-ip1-rate": "600/600s"},
        "additional_source_selection_rates": {"shaping-provider-p-ip1-selection-rate": "5/hr"},
    }
    assert path(shaping, "one.test", "ip2")["provider_name"] == "q"


def test_only_domain_names_have_providers(tmp_path: Path) -> None:
    shaping = load(tmp_path, '[provider.p]\nmatch = [{DomainSuffix=""}]\n', resolver=ZONES)
    assert path(shaping, "any.thing") == {"provider_name": "p"}
    assert path(shaping, "[10.0.0.1]") == {}
    assert path(shaping, "one.test:25") == {}


@pytest.mark.parametrize(
    ("matches", "domain", "fits"),
    [
        ('{MXSuffix=".shared.test"}', "one.test", True),
        ('{MXSuffix=".shared.test."}', "one.test", False),
        ('{MXSuffix=".SHARED.test"}', "one.test", False),
        ('{MXSuffix=".shared.test"}', "mixed.test", False),
        ('{MXSuffix=".shared.test"}, {HostName="mx.other.test"}', "mixed.test", True),
        ('{MXSuffix=".test"}', "mixed.test", True),
        ('{MXSuffix=".test"}', "gone.test", False),
        ('{HostName="mx.shared.test"}', "one.test", True),
        ('{HostName="shared.test"}', "one.test", False),
        ('{HostName="mx.shared.test."}', "one.test", False),
        ('{DomainSuffix=".test"}', "gone.test", True),
        ('{DomainSuffix="one.test"}', "one.test.", True),
        ('{DomainSuffix="one.test"}', "One.test", False),
        ('{DomainSuffix="one.test"}', "xone.test", True),
        ('{DomainSuffix=".org"}, {MXSuffix=".shared.test"}', "one.test", True),
        ("", "one.test", False),
        ('{HostName=""}', "null.test", True),
    ],
)
def test_who_belongs_to_a_provider(tmp_path: Path, matches: str, domain: str, fits: bool) -> None:
    shaping = load(tmp_path, f"[provider.p]\nmatch = [{matches}]\n", resolver=ZONES)
    provider = shaping.providers["p"]
    mx = mx_of(domain)
    assert shaping.provider_matches(provider, domain, mx) == fits
    if not shaping.needs_mx(provider, domain):
        assert shaping.provider_matches(provider, domain, None) == fits


# Laws

names = st.sampled_from(["max_ready", "smtp_port", *sorted(MERGEABLE)])


@st.composite
def options(draw: st.DrawFn) -> dict[str, Option]:
    result = {}
    for name in draw(st.lists(names, max_size=4)):
        value: Any = draw(st.integers(0, 9))
        inner = {}
        if name in MERGEABLE:
            limit: st.SearchStrategy[int | str]
            limit = st.integers(1, 9) if name.endswith("limits") else st.just("1/s")
            limits = draw(st.dictionaries(st.sampled_from("abc"), limit, max_size=3))
            value = dict(limits)
            inner = {k: Option(v, "f", 1, "s") for k, v in limits.items()}
        result[name] = Option(value, "f", 1, "s", inner)
    return result


sources = st.dictionaries(st.sampled_from(["ip1", "ip2"]), options(), max_size=2)


@st.composite
def file_blocks(draw: st.DrawFn, *, replace: bool | None = None) -> FileBlock:
    replace_base = draw(st.booleans()) if replace is None else replace
    return FileBlock(
        name="a.com",
        file="f",
        line=1,
        mx_rollup=draw(st.booleans()),
        replace_base=replace_base,
        options=draw(options()),
        sources=draw(sources),
        rules=(),
    )


@st.composite
def file_providers(draw: st.DrawFn) -> FileProvider:
    limit = draw(st.none() | st.integers(1, 9).map(lambda n: Option(str(n), "f", 1, "s")))
    return FileProvider(
        name="p",
        file="f",
        line=1,
        matches=tuple(
            ProviderMatch("DomainSuffix", text, "f", 1)
            for text in draw(st.lists(st.sampled_from("xyz"), max_size=2))
        ),
        replace_base=draw(st.booleans()),
        connection_limit=limit,
        max_message_rate=None,
        options=draw(options()),
        sources=draw(sources),
        rules=(),
    )


@st.composite
def files(draw: st.DrawFn) -> ShapingFile:
    return ShapingFile(
        "f",
        draw(st.none() | file_blocks()),
        tuple(draw(st.lists(file_blocks(), max_size=1))),
        tuple(draw(st.lists(file_providers(), max_size=1))),
    )


def merge(*parts: ShapingFile) -> Shaping:
    return asyncio.run(merge_files(parts, options=MergeOptions(), resolver=OfflineResolver()))


def content(block: Block | ProviderBlock | None) -> Any:
    if block is None:
        return None
    result: list[Any] = [
        values(block.options),
        {s: values(o) for s, o in block.sources.items() if o},
    ]
    if isinstance(block, ProviderBlock):
        result += [block.matches, block.connection_limit]
    return result


def contents(shaping: Shaping) -> Any:
    return (
        content(shaping.default),
        {n: content(b) for n, b in shaping.providers.items()},
        {n: content(b) for n, b in shaping.sites.items()},
        {n: content(b) for n, b in shaping.domains.items()},
    )


def as_file(shaping: Shaping) -> ShapingFile:
    """A merged result as one file that says the same, replacing nothing."""
    blocks = [
        FileBlock(b.name, "f", 1, rollup, False, b.options, b.sources, ())
        for rollup, named in ((True, shaping.sites), (False, shaping.domains))
        for b in named.values()
    ]
    providers = [
        FileProvider(
            p.name, "f", 1, p.matches, False, p.connection_limit, p.max_message_rate,
            p.options, p.sources, (),
        )
        for p in shaping.providers.values()
    ]  # fmt: skip
    default = shaping.default
    first = (
        None
        if default is None
        else FileBlock("default", "f", 1, True, False, default.options, default.sources, ())
    )
    return ShapingFile("f", first, tuple(blocks), tuple(providers))


@given(options(), options(), options())
def test_setting_options_is_associative(
    one: dict[str, Option], two: dict[str, Option], three: dict[str, Option]
) -> None:
    left = dict(one)
    overlay(left, two)
    overlay(left, three)
    right_part = dict(two)
    overlay(right_part, three)
    right = dict(one)
    overlay(right, right_part)
    assert values(left) == values(right)


@given(st.lists(files(), max_size=3), files())
def test_merging_what_is_merged_with_one_file_more_is_merging_all(
    earlier: list[ShapingFile], last: ShapingFile
) -> None:
    assert contents(merge(as_file(merge(*earlier)), last)) == contents(merge(*earlier, last))


@given(st.lists(files(), max_size=3), file_blocks(replace=True))
def test_replace_base_makes_the_past_irrelevant(
    earlier: list[ShapingFile], last: FileBlock
) -> None:
    file = ShapingFile("f", None, (last,))
    after, alone = merge(*earlier, file), merge(file)
    kind = "sites" if last.mx_rollup else "domains"
    assert content(getattr(after, kind)["a.com"]) == content(getattr(alone, kind)["a.com"])


@given(st.lists(files(), max_size=4))
def test_merging_is_deterministic_and_its_result_merges_to_itself(parts: list[ShapingFile]) -> None:
    merged = merge(*parts)
    assert merge(*parts).hash == merged.hash
    assert contents(merge(as_file(merged))) == contents(merged)


@given(st.lists(files(), max_size=3), st.sampled_from(["ip1", "ip2", "ip3"]))
def test_an_effective_option_is_one_that_some_file_sets(
    parts: list[ShapingFile], source: str
) -> None:
    shaping = merge(*parts)
    mx = asyncio.run(OfflineResolver().resolve("a.com"))
    set_somewhere = {
        name
        for file in parts
        for block in file.blocks
        for table in (block.options, *block.sources.values())
        for name in table
    }
    implied = {"provider_name", "additional_connection_limits"}
    assert set(shaping.egress_path("a.com", source, "a.com", mx)) <= set_somewhere | implied


def test_errors_come_with_the_other_findings(tmp_path: Path) -> None:
    with pytest.raises(ProblemError) as caught:
        load(tmp_path, "[single]\nnope = 1\n")
    assert [p.code for p in caught.value.problems] == ["unknown-option", "one-label-domain"]


def test_a_load_waits_only_so_long_for_its_domains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.shaping.merge.RESOLVE_SECONDS", 0.5)
    file = tmp_path / "rules.toml"
    names = [f"d{number}.test" for number in range(50)]
    file.write_text("".join(f'["{name}"]\nconnection_limit = 1\n' for name in names))
    zones, clock = Zones(), Clock()
    zones.answers = dict.fromkeys(names)
    zones.answers |= {name: mx(name, f"mx.{name}", ttl=60) for name in ("d1.test", "d2.test")}

    async def work() -> None:
        async with nameserver(zones) as server:
            resolver = resolver_of(server, clock, timeout=30.0)
            await resolver.resolve("d2.test")
            zones.answers["d2.test"] = None
            clock.sleep(60)
            shaping = await load_shaping([str(file)], options=MergeOptions(), resolver=resolver)
        assert shaping.sites.keys() == {"mx.d1.test", "mx.d2.test"}
        assert shaping.unresolved.keys() == set(names) - {"d1.test", "d2.test"}
        assert shaping.expires_ns == 0
        assert any("last good answer stands" in str(p) for p in shaping.warnings)

    run(work())
