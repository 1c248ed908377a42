"""Texts that nothing may show: passwords, tokens, URLs that hold one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

HIDDEN: Final = "***"
"""What stands for a secret in a text."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A text that no message, log line or traceback shows."""

    value: str = field(repr=False)

    def __str__(self) -> str:
        return HIDDEN
