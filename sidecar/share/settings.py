"""What the service says when it shares: who it is, with whom, how long things matter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sidecar.problems import ProblemError

from .address import Address
from .items import unfit_host

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Times, in seconds.

    ``answer``: for one answer of the engine.  ``first_retry`` doubles up to
    ``last_retry``, each with jitter.  ``presence``: between two words of a host about
    itself.  ``sweep``: between two looks for what is too old.  ``listen``: how long the
    engine is asked to wait for a next item.  ``watermark``: between two moves of this host's
    watermark.  ``silent``: after which a host is dropped.
    """

    answer: float = 5.0
    first_retry: float = 0.1
    last_retry: float = 15.0
    presence: float = 5.0
    sweep: float = 600.0
    listen: float = 1.0
    watermark: float = 10.0
    silent: float = 86400.0


@dataclass(frozen=True, slots=True)
class ShareSettings:
    """With whom to share.

    ``age``: seconds for which an item matters, the longest window or duration in use;
    the group keeps items for the longest age of its hosts.  ``most``: items that the
    stream holds at most.  ``queue``: bytes that wait for the engine at most.
    ``longest``: bytes of an item at most.  ``tells``: if not, it only listens, and the group
    does not know of it: nothing may be offered or said then.  Raises ProblemError for names
    that can't be.
    """

    address: Address
    name: str
    host: str
    age: float
    version: str = ""
    rules: str = ""
    most: int = 1_000_000
    queue: int = 16 * 1024 * 1024
    longest: int = 512 * 1024
    tells: bool = True
    pace: Pace = Pace()

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            message = "a group's name is 1 to 64 letters, digits, '_', '.' and '-'"
            raise ProblemError.one("share-name", message, where="--share-name")
        if why := unfit_host(self.host):
            raise ProblemError.one("share-host", why, where="--share-host")

    @property
    def keys(self) -> tuple[str, str, str, str]:
        """Stream, positions, group, hosts.  The braces keep them in one slot of a Cluster."""
        prefix = f"tsa-sidecar:{{{self.name}}}"
        positions = f"{prefix}:positions:{self.host}"
        return (f"{prefix}:stream", positions, f"{prefix}:group", f"{prefix}:hosts")
