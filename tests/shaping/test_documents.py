"""TOML and JSON text into values with lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import tomli
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from sidecar.shaping.documents import Document, DocumentError, Path, parse_json, parse_toml

names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=6)
scalars: st.SearchStrategy[Any] = (
    st.integers(-(2**63), 2**63 - 1)
    | st.booleans()
    | st.floats(allow_nan=False, allow_infinity=False)
    | names
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=15,
)
documents = st.dictionaries(names, values, max_size=5)


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Every key path and index path of a value."""
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, inner in items:
        yield (*path, key)
        yield from paths(inner, (*path, key))


def check_lines(document: Document, text: str) -> None:
    """Every path has a line, no other has, and each key is written on its line."""
    assert set(document.lines) == set(paths(document.data))
    lines = text.replace("\r\n", "\n").split("\n")
    assert all(1 <= line <= len(lines) for line in document.lines.values())


@given(documents)
def test_every_toml_path_is_found_and_every_found_path_is_real(data: dict[str, Any]) -> None:
    text = tomlkit.dumps(data)
    document = parse_toml(text)
    assert document.data == tomli.loads(text)
    check_lines(document, text)


@given(documents, st.sampled_from([None, 1]))
def test_every_json_path_is_found_and_every_found_path_is_real(
    data: dict[str, Any], indent: int | None
) -> None:
    text = json.dumps(data, indent=indent)
    document = parse_json(text)
    assert document.data == json.loads(text)
    check_lines(document, text)


FRAGMENTS = [
    *"[]{}=.,#\"'\\ \n\t-+_:",
    "[[",
    "]]",
    '"""',
    "'''",
    "a",
    "b",
    '"c"',
    "1",
    "1.5",
    "true",
    "\r\n",
    "\\u00e9",
    "\\e",
    "\\x41",
    "1979-05-27",
    "é",
    "a = 1\n",
    "[t]\n",
    "[[u]]\n",
    "k = {x = 1, y = [1, 2]}\n",
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join))
def test_the_toml_scan_agrees_with_tomli_on_any_text(text: str) -> None:
    try:
        expected = tomli.loads(text)
    except ValueError:
        expected = None
    document, error = attempt(parse_toml, text)
    if document is not None:
        assert document.data == expected
        check_lines(document, text)
    else:
        assert expected is None
        assert error is not None
        assert error.line is None or 1 <= error.line <= text.count("\n") + 1


def attempt(
    parse: Callable[[str], Document], text: str
) -> tuple[Document | None, DocumentError | None]:
    try:
        return parse(text), None
    except DocumentError as err:
        return None, err


@given(
    st.lists(st.sampled_from([*FRAGMENTS, "//x\n", "/*x*/", "null", "{}"]), max_size=25).map(
        "".join
    )
)
def test_no_text_breaks_the_json_reader(text: str) -> None:
    document, error = attempt(parse_json, text)
    if document is not None:
        assert set(document.lines) == set(paths(document.data))
    else:
        assert error is not None
        assert error.line is not None
        assert 1 <= error.line <= text.count("\n") + 1


def test_lines_are_those_of_the_keys() -> None:
    document = parse_toml(
        '[default]\nmax_ready = 1\n\n[["a.b".automation]]\nregex = [\n  "x",\n  "y",\n]\n'
        "[['a.b'.automation]]\naction.SetConfig = {name = 'x', value = '''\n'''}\n"
        "[provider.x.sources.ip1]\nq = 1 # c"
    )
    assert document.lines[("default", "max_ready")] == 2
    assert document.lines[("a.b", "automation")] == 4
    assert document.lines[("a.b", "automation", 0, "regex", 1)] == 7
    assert document.lines[("a.b", "automation", 1)] == 9
    assert document.lines[("a.b", "automation", 1, "action", "SetConfig", "value")] == 10
    assert document.lines[("provider", "x", "sources", "ip1", "q")] == 13
    assert document.line(("default", "nothing", "here")) == 1
    assert document.line(()) == 1
    assert document.literals == {
        ("a.b", "automation", 1, "action", "SetConfig", name) for name in ("name", "value")
    }


def test_what_looks_like_keys_inside_strings_is_none() -> None:
    text = (
        'a = """\n[b]\nc = 1 # "\n\\e\\""" ""\n"""\n'
        "d = '''\n[[e]]\n' = {\n'''\n"
        '"f\\u00e9\\x41" = "[g]"\n[h]\n'
    )
    document = parse_toml(text)
    assert document.data == {
        "a": '[b]\nc = 1 # "\n\x1b""" ""\n',
        "d": "[[e]]\n' = {\n",
        "féA": "[g]",
        "h": {},
    }
    assert document.lines == {("a",): 1, ("d",): 6, ("féA",): 10, ("h",): 11}


def test_a_bom_and_crlf_are_taken_in_toml() -> None:
    document = parse_toml("\ufeff[default]\r\nmax_ready = 1\r\n")
    assert document.data == {"default": {"max_ready": 1}}
    assert document.lines[("default", "max_ready")] == 2


def test_toml_1_1_is_read_as_upstream_reads_it() -> None:
    document = parse_toml(
        'a = { # comment, with {\n  b = 1, # "\n  c = "\\e\\x41",\n}\nd = [{\n}]\n'
    )
    assert document.data == {"a": {"b": 1, "c": "\x1bA"}, "d": [{}]}
    assert document.lines[("a", "c")] == 3


def test_times_may_lack_their_seconds() -> None:
    document = parse_toml("a = 07:32\nb = 1979-05-27 07:32\nc = [1979-05-27T07:32Z, 07:32:01]")
    assert [str(v) for v in (document.data["a"], document.data["b"], *document.data["c"])] == [
        "07:32:00",
        "1979-05-27 07:32:00",
        "1979-05-27 07:32:00+00:00",
        "07:32:01",
    ]


def test_the_line_of_an_error_is_right_behind_an_inline_table_of_several_lines() -> None:
    with pytest.raises(DocumentError) as caught:
        parse_toml('a = {\n b = "\\e\\e\\e\\e",\n}\nq = \n')
    assert caught.value.line == 4


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('["comcast.net"\nx = 1', 1),
        ("a = 1\nb =\n", 2),
        ("a = 1\na = 2", 2),
        ('["a"]\nx=1\n["a"]\n', 3),
        ("a = " + "[" * 5000, 1),
        ("a = " + "{x=" * 5000, 1),
        ("a." * 5000 + "b = 1", 1),
        ("\n\na = " + "[" * 100 + "]" * 100, 3),
        ("a = " + "9" * 5000, 1),
        ('a = "\x00"', 1),
        ("a = 1\r\r\n", 1),
        ("\n\na = '''", 3),
        ("a = {b = 1", 1),
        ("a = [1", 1),
        ('a = 1\n"\\q" = 1', 2),
        ('a = 1\n"b = 1', 2),
    ],
)
def test_bad_toml_is_an_error_with_its_line(text: str, line: int) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_toml(text)
    assert caught.value.line == line
    assert len(str(caught.value)) < 300


def test_a_table_that_is_there_twice_is_named_as_it_is_written() -> None:
    with pytest.raises(DocumentError, match=r'^Cannot declare \["a\.b"\."c"\] twice$') as caught:
        parse_toml('["a.b".c]\n["a.b".\'c\']\n')
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("", 1, "a value is missing before the end"),
        ("[]", 1, "not an object"),
        ("{\n'a': 1}", 2, "a key in double quotes is missing"),
        ('{"a" 1}', 1, "a colon is missing"),
        ('{"a": }', 1, 'a value is missing before "}"'),
        ('{"a": 1\n"b": 2}', 2, "a comma or } is missing"),
        ('{"a": [1,\n]}', 2, "a comma right before ] is not allowed"),
        ('{"a": 1,}', 1, "a comma right before }"),
        ('{"a": "x\n"}', 1, "a string has no end"),
        ('{"a": "\\ud800"}', 1, "escape"),
        ('{"a": "\\q"}', 1, "escape"),
        ('{"a": 1e999}', 1, "too large"),
        ('{"a": NaN}', 1, "a value is missing"),
        ('{"a": 01}', 1, "a comma or } is missing"),
        ("{\n/* a", 2, "the comment has no end"),
        ('{"a": ' + "[" * 5000, 1, "nested too deeply"),
        ("\ufeff{}", 1, "a value is missing"),
        ('{"a": tru}', 1, "a value is missing"),
        ('{"a": 1', 1, "before the end"),
    ],
)
def test_bad_json_is_an_error_with_its_line(text: str, line: int, reason: str) -> None:
    with pytest.raises(DocumentError) as caught:
        parse_json(text)
    assert caught.value.line == line
    assert reason in str(caught.value)


def test_json_may_have_comments_and_they_are_told() -> None:
    document = parse_json(
        '{\n// one\n"a": /* two */ 1, # no'.replace("# no", "/* x\n*/") + '"b": "//"}'
    )
    assert document.data == {"a": 1, "b": "//"}
    assert document.comment_line == 2
    assert document.lines == {("a",): 3, ("b",): 4}


def test_json_tells_repeated_keys_and_takes_the_last() -> None:
    document = parse_json('{"a": 1,\n"a": {"b": 1, "b": 2}}')
    assert document.data == {"a": {"b": 2}}
    assert document.duplicates == ((("a",), 2), (("a", "b"), 2))


def test_what_follows_the_json_object_is_told() -> None:
    assert parse_json("{}\n ").trailing_line is None
    assert parse_json("{}\n x").trailing_line == 2


def test_json_numbers_are_as_upstream_has_them() -> None:
    data = parse_json(
        '{"a": 18446744073709551615, "b": 18446744073709551616, "c": -0, "d": 1.0}'
    ).data
    assert data["a"] == 2**64 - 1
    assert isinstance(data["b"], float)
    assert isinstance(data["c"], float)
    assert isinstance(data["d"], float)


def test_a_nesting_as_deep_as_allowed_is_read() -> None:
    assert parse_toml("a = " + "[" * 70 + "]" * 70).data["a"]
    assert parse_json('{"a": ' + "[" * 120 + "]" * 120 + "}").data["a"]
