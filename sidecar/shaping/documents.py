"""TOML and JSON text into plain values, with the line each key stands on.

In: the text of a file.  Out: a :class:`Document`.  :class:`DocumentError`
with a line where the text is not of its format.  Nothing here knows what a
shaping file is.

tomli reads TOML (1.1, as KumoMTA does) and says what is wrong with it.  It does not
say where a key stands, so a scan of the same text finds the line of each.
"""

from __future__ import annotations

import ast
import bisect
import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import tomli

Path: TypeAlias = tuple[str | int, ...]
"""Keys and array indexes from the top of the document."""

Data: TypeAlias = dict[str, Any]
"""What a document holds: dict, list, str, int, float, bool, None (JSON) and, from TOML, dates."""

DEEPEST = 80
"""Tables and arrays nested deeper are refused, as upstream's TOML parser does."""


class DocumentError(ValueError):
    """The text is not of its format.  ``line`` counts from 1; None where it can't be told."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file.

    ``lines`` has the line of every key and array element; ``duplicates`` the
    keys a JSON object repeats (the last one counts).  ``comment_line`` is the first
    comment in JSON, which has none by rights; ``trailing_line`` where something
    follows the JSON object, which upstream does not look at.  ``literals`` has the
    values written in single quotes, where a backslash is just that.
    """

    data: Data
    lines: Mapping[Path, int]
    duplicates: tuple[tuple[Path, int], ...] = ()
    comment_line: int | None = None
    trailing_line: int | None = None
    literals: frozenset[Path] = frozenset()

    def line(self, path: Path) -> int:
        """The line of `path`, or of the nearest thing around it."""
        while path:
            if (line := self.lines.get(path)) is not None:
                return line
            path = path[:-1]
        return 1


def quoted(name: str) -> str:
    """A name as a TOML key has it."""
    return json.dumps(name, ensure_ascii=False)


def parse_toml(text: str) -> Document:
    """A TOML document; DocumentError where it is none."""
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if (stray := text.find("\r\n")) >= 0:  # tomli would take the two for one line end
        line = text.count("\n", 0, stray) + 1
        raise DocumentError("a carriage return stands alone, before a line end", line)
    scan = _TomlScan(text)
    # Where the scan gets lost, tomli says what is wrong, and better.
    with contextlib.suppress(_LostError):
        scan.run()
    try:
        data = tomli.loads(text)
    except RecursionError:
        raise DocumentError("tables or arrays are nested too deeply", None) from None
    except tomli.TOMLDecodeError as err:
        message = _PYTHON_KEYS.sub(_toml_keys, err.msg)
        # An error behind the last line end is one of the last line that has text.
        line = min(err.lineno, text.count("\n") + (not text.endswith("\n")))
        raise DocumentError(message, max(line, 1)) from None
    except ValueError as err:  # a number of more digits than Python converts
        raise DocumentError(str(err), 1) from None
    return Document(data, scan.lines, literals=frozenset(scan.literals))


_PYTHON_KEYS = re.compile(r"\((?:'[^\n]*'|\"[^\n]*\"),?\)")


def _toml_keys(m: re.Match[str]) -> str:
    """tomli tells a table as a tuple; a person wrote it with dots."""
    try:
        keys = ast.literal_eval(m[0])
    except (ValueError, SyntaxError):
        return m[0]
    return f"[{'.'.join(json.dumps(key, ensure_ascii=False) for key in keys)}]"


class _LostError(Exception):
    """The scan met something that is no TOML."""


_BLANKS = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_BARE_VALUE = re.compile(r"[^,\]}#\n\"']+")
_BASIC = re.compile(r'"([^"\\\n]*(?:\\.[^"\\\n]*)*)"')
_LITERAL = re.compile(r"'([^'\n]*)'")
_LONG_BASIC = re.compile(r'"""([^"\\]*(?:(?:\\.|""?(?!"))[^"\\]*)*)"""("{0,2})', re.DOTALL)
_LONG_LITERAL = re.compile(r"'''([^']*(?:''?(?!')[^']*)*)'''('{0,2})", re.DOTALL)


@dataclass(slots=True)
class _TomlScan:
    """One pass over a TOML text, for the line of every path."""

    text: str
    lines: dict[Path, int] = field(default_factory=dict)
    literals: set[Path] = field(default_factory=set)
    position: int = 0
    _newlines: list[int] = field(default_factory=list)
    _tables: dict[Path, int] = field(default_factory=dict)  # array of tables → its last index

    def run(self) -> None:
        """Fill ``lines`` and ``literals``; _LostError where the text is no TOML."""
        self._newlines = [m.start() for m in re.finditer("\n", self.text)]
        table: Path = ()
        while True:
            self._skip_space(newlines=True)
            if self.position >= len(self.text):
                return
            if self._peek() == "[":
                table = self._header()
            else:
                self._pair(table, 1)
            self._skip_space(newlines=False)
            if self.position < len(self.text) and self._peek() != "\n":
                raise _LostError

    def _peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def _line(self) -> int:
        return bisect.bisect_left(self._newlines, self.position) + 1

    def _expect(self, what: str) -> None:
        if not self.text.startswith(what, self.position):
            raise _LostError
        self.position += len(what)

    def _skip_blanks(self) -> None:
        m = _BLANKS.match(self.text, self.position)
        assert m is not None
        self.position = m.end()

    def _skip_space(self, *, newlines: bool) -> None:
        """Skip blanks and comments, and with `newlines` line ends too."""
        while True:
            self._skip_blanks()
            if self._peek() == "#":
                end = self.text.find("\n", self.position)
                self.position = len(self.text) if end < 0 else end
            elif newlines and self._peek() == "\n":
                self.position += 1
            else:
                return

    def _header(self) -> Path:
        line = self._line()
        many = self.text.startswith("[[", self.position)
        self._expect("[[" if many else "[")
        *parents, last = self._keys()
        self._expect("]]" if many else "]")
        path: Path = ()
        for key in parents:
            path = self._enter((*path, key), line)
        path = (*path, last)
        self.lines.setdefault(path, line)
        if not many:
            return self._enter(path, line)
        self._tables[path] = self._tables.get(path, -1) + 1
        path = (*path, self._tables[path])
        self.lines[path] = line
        return path

    def _enter(self, path: Path, line: int) -> Path:
        self.lines.setdefault(path, line)
        return (*path, self._tables[path]) if path in self._tables else path

    def _keys(self) -> list[str]:
        keys = []
        while True:
            self._skip_blanks()
            keys.append(self._key())
            self._skip_blanks()
            if len(keys) > DEEPEST:
                raise DocumentError("a dotted key has too many parts", self._line())
            if self._peek() != ".":
                return keys
            self.position += 1

    def _key(self) -> str:
        if self._peek() in ('"', "'"):
            return self._short_string()
        m = _BARE_KEY.match(self.text, self.position)
        if m is None:
            raise _LostError
        self.position = m.end()
        return m[0]

    def _pair(self, table: Path, depth: int) -> None:
        line = self._line()
        path = table
        for key in self._keys():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self._expect("=")
        self._skip_blanks()
        self._value(path, depth)

    def _value(self, path: Path, depth: int) -> None:
        if depth > DEEPEST:
            raise DocumentError("tables or arrays are nested too deeply", self._line())
        match self._peek():
            case "[":
                self._array(path, depth)
            case "{":
                self._inline_table(path, depth)
            case '"' | "'":
                if self._peek() == "'":
                    self.literals.add(path)
                if not self._long_string():
                    self._short_string()
            case _:
                m = _BARE_VALUE.match(self.text, self.position)
                if m is None:
                    raise _LostError
                self.position = m.end()

    def _array(self, path: Path, depth: int) -> None:
        self._expect("[")
        index = 0
        while True:
            self._skip_space(newlines=True)
            if self._peek() == "]":
                self.position += 1
                return
            self.lines[(*path, index)] = self._line()
            self._value((*path, index), depth + 1)
            index += 1
            self._skip_space(newlines=True)
            if self._peek() != "]":
                self._expect(",")

    def _inline_table(self, path: Path, depth: int) -> None:
        self._expect("{")
        while True:
            self._skip_space(newlines=True)
            if self._peek() == "}":
                self.position += 1
                return
            self._pair(path, depth + 1)
            self._skip_space(newlines=True)
            if self._peek() != "}":
                self._expect(",")

    def _short_string(self) -> str:
        m = _LITERAL.match(self.text, self.position) or _BASIC.match(self.text, self.position)
        if m is None:
            raise _LostError
        self.position = m.end()
        if m.re is _LITERAL or "\\" not in m[1]:
            return m[1]
        try:
            value: str = tomli.loads(f"k = {m[0]}")["k"]
        except ValueError:
            raise _LostError from None
        return value

    def _long_string(self) -> bool:
        for long in (_LONG_LITERAL, _LONG_BASIC):
            if m := long.match(self.text, self.position):
                self.position = m.end()
                return True
        return False


def parse_json(text: str) -> Document:
    """A JSON document, ``//`` and ``/* */`` comments allowed; DocumentError where it is none."""
    reader = _JsonReader(text)
    data = reader.run()
    return Document(
        data, reader.lines, tuple(reader.duplicates), reader.comment_line, reader.trailing_line
    )


_JSON_DEEPEST = 127
_JSON_SPACE = re.compile(r"[ \t\n\r]*")
_JSON_STRING = re.compile(r'"[^"\\\x00-\x1f]*(?:\\.[^"\\\x00-\x1f]*)*"')
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_JSON_WORDS = {"true": True, "false": False, "null": None}


@dataclass(slots=True)
class _JsonReader:
    """One pass over a JSON text: its values and the line of every path."""

    text: str
    lines: dict[Path, int] = field(default_factory=dict)
    duplicates: list[tuple[Path, int]] = field(default_factory=list)
    comment_line: int | None = None
    trailing_line: int | None = None
    position: int = 0
    _newlines: list[int] = field(default_factory=list)

    def run(self) -> Data:
        self._newlines = [m.start() for m in re.finditer("\n", self.text)]
        self._skip()
        data = self._value((), 1)
        rest = re.compile(r"[ \t\r\n]*").match(self.text, self.position)
        assert rest is not None
        self.position = rest.end()
        if self.position < len(self.text):
            self.trailing_line = self._line()
        if not isinstance(data, dict):
            raise DocumentError("the document is not an object: it must start with {", 1)
        return data

    def _line(self) -> int:
        return bisect.bisect_left(self._newlines, self.position) + 1

    def _fail(self, message: str) -> NoReturn:
        raise DocumentError(message, self._line())

    def _peek(self) -> str:
        return self.text[self.position : self.position + 1]

    def _skip(self) -> None:
        """Skip space and comments."""
        while True:
            m = _JSON_SPACE.match(self.text, self.position)
            assert m is not None
            self.position = m.end()
            if self.text.startswith("//", self.position):
                end = self.text.find("\n", self.position)
                end = len(self.text) if end < 0 else end
            elif self.text.startswith("/*", self.position):
                end = self.text.find("*/", self.position + 2)
                if end < 0:
                    self._fail("the comment has no end: */ is missing")
                end += 2
            else:
                return
            self.comment_line = self.comment_line or self._line()
            self.position = end

    def _value(self, path: Path, depth: int) -> Any:
        if depth > _JSON_DEEPEST:
            self._fail("objects or arrays are nested too deeply")
        match self._peek():
            case "{":
                return self._object(path, depth)
            case "[":
                return self._array(path, depth)
            case '"':
                return self._string()
        for word, value in _JSON_WORDS.items():
            if self.text.startswith(word, self.position):
                self.position += len(word)
                return value
        return self._number()

    def _object(self, path: Path, depth: int) -> Data:
        self.position += 1
        result: Data = {}
        self._skip()
        if self._peek() == "}":
            self.position += 1
            return result
        while True:
            if self._peek() != '"':
                self._fail(f"a key in double quotes is missing before {self._found()}")
            line = self._line()
            key = self._string()
            if key in result:
                self.duplicates.append(((*path, key), line))
            self.lines[(*path, key)] = line
            self._skip()
            if self._peek() != ":":
                self._fail(f"a colon is missing before {self._found()}")
            self.position += 1
            self._skip()
            result[key] = self._value((*path, key), depth + 1)
            if self._ends("}"):
                return result

    def _array(self, path: Path, depth: int) -> list[Any]:
        self.position += 1
        result: list[Any] = []
        self._skip()
        if self._peek() == "]":
            self.position += 1
            return result
        while True:
            item = (*path, len(result))
            self.lines[item] = self._line()
            result.append(self._value(item, depth + 1))
            if self._ends("]"):
                return result

    def _ends(self, bracket: str) -> bool:
        """After an item: True at `bracket`, False when another item follows."""
        self._skip()
        found = self._peek()
        if found not in (bracket, ",") or not found:
            self._fail(f"a comma or {bracket} is missing before {self._found()}")
        self.position += 1
        self._skip()
        if found == "," and self._peek() == bracket:
            self._fail(f"a comma right before {bracket} is not allowed in JSON")
        return found == bracket

    def _string(self) -> str:
        m = _JSON_STRING.match(self.text, self.position)
        if m is None:
            self._fail("a string has no end on its line, or holds a control character")
        try:
            value: str = json.loads(m[0])
            value.encode()
        except (ValueError, UnicodeEncodeError):
            self._fail("a string holds an escape that does not exist")
        self.position = m.end()
        return value

    def _number(self) -> int | float:
        m = _JSON_NUMBER.match(self.text, self.position)
        if m is None:
            self._fail(f"a value is missing before {self._found()}")
        self.position = m.end()
        # As upstream's parser: integers up to 64 bits, everything else is a float.
        if m[1] is None and m[2] is None and len(m[0]) < 40 and m[0] != "-0":
            value = int(m[0])
            if -(2**63) <= value < 2**64:
                return value
        number = float(m[0])
        if number in (float("inf"), float("-inf")):
            self._fail("a number is too large")
        return number

    def _found(self) -> str:
        word = re.match(r"\w{1,20}|.", self.text[self.position : self.position + 20])
        return f'"{word[0]}"' if word else "the end"
