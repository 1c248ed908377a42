"""Domain names, literals and site names."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.shaping.names import (
    Address,
    Domain,
    classify,
    count_labels,
    host_text,
    is_name,
    parse_name,
    site_name,
    split_port,
)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("Gmail.COM", ("gmail", "com")),
        ("gmail.com.", ("gmail", "com")),
        ("", ()),
        (".", ()),
        ("exÄmple.com", ("xn--exmple-cua", "com")),
        ("straße.de", ("xn--strae-oqa", "de")),
        ("xn--bb-eka.at", ("xn--bb-eka", "at")),
        ("_dmarc.Example.com", ("_dmarc", "example", "com")),
        ("*.example.com", ("*", "example", "com")),
        ("a-.com", ("a-", "com")),
        (r"\141.com", ("a", "com")),
        (r"\a.com", ("a", "com")),
        ("a\u00ad.com", ("a", "com")),
    ],
)
def test_names_are_read_as_upstream_reads_them(text: str, labels: tuple[str, ...]) -> None:
    assert parse_name(text) == labels


@pytest.mark.parametrize(
    "text",
    [
        "[10.0.0.1]",
        "a:25",
        "a..b",
        ".a",
        "a b",
        "a\x00",
        "-a.com",
        "foo_bar.com",
        "a/b",
        "(?i)Ünicode",
        "comcast.net>",
        "xn--zzzz.com",
        "日本。jp",
        r"\9.com",
        r"\²bc.com",
        "x" * 64 + ".com",
        ".".join(["x" * 60] * 5),
        "\u0301a.com",
        "a\ue000.com",
    ],
)
def test_other_texts_are_no_names(text: str) -> None:
    assert not is_name(text)


@given(st.text(max_size=40))
def test_no_text_breaks_the_parsers(text: str) -> None:
    reason = ""
    try:
        assert isinstance(classify(text), Address | Domain)
    except ValueError as err:
        reason = str(err)
    assert (reason or "x").isprintable()
    assert isinstance(site_name([text]), str)


def test_a_leading_star_is_no_label() -> None:
    assert count_labels(parse_name("*.com")) == 1
    assert count_labels(parse_name("a.com")) == 2


def test_hosts_are_shown_in_unicode_with_odd_signs_escaped() -> None:
    assert host_text(("mx", "xn--exmple-cua", "com")) == "mx.exämple.com."
    assert host_text(("a b", "x-y", "_c", "d.e")) == "a\\040b.x-y._c.d\\.e."
    assert host_text(()) == "."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:25", ("a", 25)),
        ("a:+25", ("a", 25)),
        ("a:0025", ("a", 25)),
        ("a:65536", ("a:65536", None)),
        ("a:" + "9" * 5000, ("a:" + "9" * 5000, None)),
        ("a:", ("a:", None)),
        ("::1", ("::1", None)),
        ("a:٣", ("a:٣", None)),
    ],
)
def test_a_port_is_what_follows_the_only_colon(text: str, expected: tuple[str, int | None]) -> None:
    assert split_port(text) == expected


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("[10.0.0.1]", "10.0.0.1"),
        ("[10.0.0.1]:25", "10.0.0.1:25"),
        ("[10.0.0.1:25]", "10.0.0.1:25"),
        ("[::1]", "::1"),
        ("[IPv6:::1]", "::1"),
        ("[ipv6:2001:DB8:0::1]", "2001:db8::1"),
        ("[IPv6:::ffff:1.2.3.4]", "::ffff:1.2.3.4"),
    ],
)
def test_domain_literals_are_addresses(text: str, address: str) -> None:
    assert classify(text) == Address(address)


@pytest.mark.parametrize(
    "text",
    ["[10.0.0.1", "[::1]:25", "[10.0.0.1:25]:25", "[ipv6:10.0.0.1]", "[x]", "[]", "[::1%eth0]"],
)
def test_malformed_literals_are_neither(text: str) -> None:
    with pytest.raises(ValueError, match=r"literal|address|port"):
        classify(text)


def test_a_domain_with_a_port_is_looked_up_without_it() -> None:
    what = classify("Example.com.:25")
    assert what == Domain(("example", "com"), 25)
    assert what.key == "example.com:25"


@pytest.mark.parametrize(
    ("hosts", "name"),
    [
        (["mta5.x.net.", "mta6.x.net.", "mta7.x.net."], "(mta5|mta6|mta7).x.net"),
        (["MTA5.x.net.", "mta6.X.net."], "(mta5|mta6).x.net"),
        (
            ["mx.google.com.", "alt1.mx.google.com.", "alt2.mx.google.com."],
            "(alt1|alt2)?.mx.google.com",
        ),
        (["alt1.mx.google.com.", "mx.google.com."], "alt1?.mx.google.com"),
        (["b.c.net.", "a.c.net.", "b.c.net."], "(b|a).c.net"),
        (["a.b.net.", "x.y.com.", "a.y.net."], "(a|x).(b|y).(net|com)"),
        (["a.net.:25", "b.net.:25"], "(a|b).net:25"),
        (["a.net.:25", "b.net.:26"], "(a|b).(net:25|net:26)"),
        (["."], ""),
        ([".", "a.net."], "a?.net?"),
        (["foo_bar.example."], ""),
        (["foo_bar.example.", "a.net."], "a.net"),
        (["mx.exämple.com."], "mx.xn--exmple-cua.com"),
        ([], ""),
    ],
)
def test_site_names(hosts: list[str], name: str) -> None:
    assert site_name(hosts) == name


labels = st.sampled_from(["a", "b", "mx1", "mx2", "net", "com"])
hosts = st.lists(labels, min_size=1, max_size=4).map(".".join)


@given(st.lists(hosts, min_size=1, max_size=5))
def test_a_site_name_is_made_of_the_hosts_labels_position_by_position(names: list[str]) -> None:
    parts = site_name(names).split(".")
    split = [name.split(".")[::-1] for name in names]
    assert len(parts) == max(len(s) for s in split)
    for i, part in enumerate(reversed(parts)):
        present = [s[i] for s in split if i < len(s)]
        assert part.endswith("?") == (len(present) < len(names))
        assert part.strip("()?").split("|") == list(dict.fromkeys(present))


@given(st.lists(hosts, min_size=1, max_size=5), st.data())
def test_a_site_name_ignores_case_final_dots_and_repeats(
    names: list[str], data: st.DataObject
) -> None:
    changed = [data.draw(st.sampled_from([n, n.upper(), n + "."])) for n in names]
    assert site_name(changed + names) == site_name(names)


def test_a_name_of_megabytes_is_refused_at_once() -> None:
    began = time.process_time()
    for text in ("x" * 10_000_000, "\\065" * 3_000_000, "a." * 5_000_000):
        with pytest.raises(ValueError, match="too long for a domain name"):
            parse_name(text)
    assert time.process_time() - began < 5  # it took minutes
