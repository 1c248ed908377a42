"""Errors and warnings for people: what is wrong, where, and what to do.

Every room that reads something a person wrote (rule files, policy, options)
reports a :class:`Problem` for each finding and raises :class:`ProblemError`
with all of them at once, never just the first.  Nothing else may reach a user
as an error: a traceback is a bug.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding.

    ``code`` is a short stable name (``unknown-option``) for tools and tests;
    ``file`` is the path or URL as the user gave it, ``line`` counts from 1;
    ``where`` names the table and key (``[["gmail.com".automation]] rule 3:
    duration``); ``message`` says what was found, what is accepted and the remedy.
    """

    level: Level
    code: str
    message: str
    file: str | None = None
    line: int | None = None
    where: str | None = None

    def __str__(self) -> str:
        parts = []
        if self.file is not None:
            parts.append(self.file if self.line is None else f"{self.file}:{self.line}")
        if self.where is not None:
            parts.append(self.where)
        parts.append(self.message)
        return ": ".join(parts)


def one_line(text: str) -> str:
    r"""`text` on one line: what is no printable character or space as ``\n``, ``\u2028`` …

    A terminal would obey control characters.  A log line and a TOML comment must not
    hold any.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class ProblemError(Exception):
    """Something a person gave can't be used; ``problems`` says all that is wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))

    @classmethod
    def one(
        cls,
        code: str,
        message: str,
        *,
        file: str | None = None,
        line: int | None = None,
        where: str | None = None,
    ) -> ProblemError:
        """A ProblemError with a single error."""
        return cls([Problem("error", code, message, file=file, line=line, where=where)])
