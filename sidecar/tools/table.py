"""A table of a TOML file that a person wrote: its keys, checked, and errors with their lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sidecar.problems import Problem
from sidecar.shaping.documents import Document
from sidecar.shaping.documents import Path as Keys
from sidecar.shaping.options import suggestion
from sidecar.shaping.specs import parse_duration, shown


@dataclass(frozen=True, slots=True)
class Table:
    """A table at `path` of the file: reads its keys, and notes what is wrong with them.

    ``where`` names it for people; ``inherited`` holds what stands for keys that
    are not given, from the table around it (``path[:2]``).
    """

    document: Document
    file: str
    problems: list[Problem]
    data: Mapping[str, Any]
    path: Keys
    where: str
    inherited: Mapping[str, Any] = field(default_factory=dict)

    @property
    def line(self) -> int:
        """Where the table begins."""
        return self.document.line(self.path)

    def error(self, code: str, message: str, key: str | None = None) -> None:
        """Note an error with the table, or with one of its keys."""
        path = self.path if key is None else (*self.path, key)
        if key is not None and key not in self.data and key in self.inherited:
            path = (*self.path[:2], key)  # it stands in the case
        where = " ".join(part for part in (self.where, key or "") if part)
        line = self.document.line(path)
        self.problems.append(Problem("error", code, message, self.file, line, where or None))

    def only(self, known: Sequence[str]) -> None:
        """Refuse every other key."""
        for key in self.data:
            if key not in known:
                hint = suggestion(key, known) or f": keys are {', '.join(known)}"
                message = f"unknown key {shown(key)}{hint}"
                line = self.document.line((*self.path, key))
                where = self.where or None
                problem = Problem("error", "unknown-key", message, self.file, line, where)
                self.problems.append(problem)

    def get(self, key: str, wanted: str, kind: type | tuple[type, ...]) -> Any:
        """The value of `key`, or what the case says, or None; None and an error when it is off."""
        value = self.data.get(key, self.inherited.get(key))
        if value is None:
            return None
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            self.error("bad-value", f"found {shown(value)}, wanted {wanted}", key)
            return None
        return value

    def text(self, key: str) -> str | None:
        """A string."""
        value: str | None = self.get(key, "a string", str)
        return value

    def flag(self, key: str, *, default: bool) -> bool:
        """A boolean."""
        value = self.get(key, "true or false", bool)
        return default if value is None else value

    def texts(self, key: str) -> tuple[str, ...]:
        """An array of strings; a single one stands for an array of one."""
        value = self.get(key, "a string or an array of strings", (str, list))
        items = [value] if isinstance(value, str) else value or []
        if not all(isinstance(item, str) for item in items):
            self.error("bad-value", f"found {shown(value)}, wanted strings", key)
            return ()
        return tuple(items)

    def count(self, key: str, *, least: int, most: int) -> int | None:
        """A whole number from `least` to `most`."""
        value: int | None = self.get(key, "a whole number", int)
        if value is not None and not least <= value <= most:
            self.error("bad-value", f"found {value}, wanted {least} to {most}", key)
            return None
        return value

    def duration(self, key: str, default: int | None = None) -> int | None:
        """A duration in ns."""
        value = self.get(key, "a duration", (str, int, float))
        if value is None:
            return default
        try:
            return parse_duration(value)
        except ValueError as error:
            self.error("bad-duration", str(error), key)
            return default

    def tables(
        self, key: str, where: str, inherited: Mapping[str, Any] | None = None
    ) -> list[Table]:
        """The tables of an array of tables; a single table stands for an array of one."""
        value = self.data.get(key, [])
        one = isinstance(value, dict)
        items = [value] if one else value
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            self.error("bad-value", f"found {shown(value)}, wanted tables", key)
            return []
        return [
            Table(
                self.document,
                self.file,
                self.problems,
                item,
                (*self.path, key) if one else (*self.path, key, number),
                f"{where} {number + 1}".lstrip(),
                inherited or {},
            )
            for number, item in enumerate(items)
        ]
