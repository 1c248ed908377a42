"""Who is in the group: what a host says of itself, and what is known of the others.  Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from .items import unfit_host
from .place import id_key

_LONGEST = 4096
_MOST = 10**15
"""No number of a host's is so great: what is divided or shown must stay small."""
_HOSTS_MOST = 1000
"""So many hosts are looked at: the list is the engine's."""


@dataclass(frozen=True, slots=True)
class Presence:
    """What a host says of itself.

    ``rules``: a hash of its rules.  ``age``: seconds for which an item matters to it.
    ``id``/``number``: of the last item that it read.  ``queued``: its items that wait.
    ``behind``: its segments that must be read again.  ``life`` tells its processes apart:
    two that take turns under one name are two hosts that have one.
    """

    version: str = ""
    rules: str = ""
    age: float = 0.0
    id: str = "0-0"
    number: int = 0
    queued: int = 0
    behind: int = 0
    life: str = ""


@dataclass(frozen=True, slots=True)
class HostSeen:
    """A host of the group, as of this host's last look.

    ``silent``: seconds since its last word.  ``unread``: items it has not read.
    ``late``: seconds since what it read last was appended, 0 where nothing is unread.
    """

    host: str
    own: bool
    silent: float
    unread: int
    late: float
    said: Presence


def write_presence(said: Presence) -> str:
    """As JSON."""
    return json.dumps(
        {
            "version": said.version,
            "rules": said.rules,
            "age": said.age,
            "id": said.id,
            "number": said.number,
            "queued": said.queued,
            "behind": said.behind,
            "life": said.life,
        },
        separators=(",", ":"),
    )


def read_presence(raw: bytes) -> Presence | None:
    """From JSON; None where it is none of ours."""
    if len(raw) > _LONGEST:
        return None
    try:
        said = json.loads(raw)
        place = id_key(str(said["id"])[:40])
        found = Presence(
            version=str(said["version"])[:64],
            rules=str(said["rules"])[:128],
            age=float(said["age"]),
            id="{}-{}".format(*place),
            number=int(said["number"]),
            queued=int(said["queued"]),
            behind=int(said["behind"]),
            life=str(said.get("life", ""))[:64],
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    numbers = (*place, found.number, found.queued, found.behind)
    fit = 0 <= found.age < 10**9 and all(0 <= number < _MOST for number in numbers)
    return found if fit else None


def read_hosts(
    now_ms: int, added: int, hosts: Sequence[bytes], *, own: str
) -> tuple[HostSeen, ...]:
    """Whom the engine's list names, by name.  What can't be read is passed over."""
    found = []
    for name, raw in islice(zip(hosts[0::2], hosts[1::2], strict=False), _HOSTS_MOST):
        at, _, text = raw.partition(b" ")
        said = read_presence(text)
        host = name.decode(errors="replace")
        if said is None or not at.isdigit() or len(at) > 16 or unfit_host(host):
            continue
        unread = max(added - said.number, 0) if said.number else added
        late = (now_ms - id_key(said.id)[0]) / 1000 if unread and said.number else 0.0
        silent = max(now_ms - int(at), 0) / 1000
        found.append(HostSeen(host, host == own, silent, unread, max(late, 0.0), said))
    return tuple(sorted(found, key=lambda seen: seen.host))
