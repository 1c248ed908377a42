"""What a user may read and write, by the permission bits.

In: a tree's ``etc/passwd`` and ``etc/group``, and paths in it.  Out: the first
file or directory that stands in the way.  Access control lists and mount options
are not looked at.  For the present user the system itself is asked.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

READ, WRITE, SEARCH = os.R_OK, os.W_OK, os.X_OK


@dataclass(frozen=True, slots=True)
class Identity:
    """A user: name, number, and the numbers of all groups that count for it."""

    name: str
    uid: int
    gid: int
    groups: frozenset[int]


@dataclass(frozen=True, slots=True)
class Tree:
    """The directory that stands for ``/``."""

    root: Path

    def at(self, path: Path | str) -> Path:
        """Where `path` (absolute, as the system knows it) is really found."""
        return self.root / Path(path).relative_to("/")

    def user(self, name: str, *, extra_groups: tuple[str, ...] = ()) -> Identity | None:
        """The user `name`, with its groups and `extra_groups`; None when there is none."""
        for fields in self._table("passwd"):
            if (
                fields[0] == name
                and len(fields) > 3
                and fields[2].isdigit()
                and fields[3].isdigit()
            ):
                gid = int(fields[3])
                return Identity(name, int(fields[2]), gid, self._groups(name, gid, extra_groups))
        return None

    def group(self, name: str) -> int | None:
        """The number of the group `name`, or None."""
        for fields in self._table("group"):
            if fields[0] == name and len(fields) > 2 and fields[2].isdigit():
                return int(fields[2])
        return None

    def _groups(self, user: str, gid: int, extra: tuple[str, ...]) -> frozenset[int]:
        numbers = {gid}
        for fields in self._table("group"):
            is_whole = len(fields) > 3 and fields[2].isdigit()
            if is_whole and (user in fields[3].split(",") or fields[0] in extra):
                numbers.add(int(fields[2]))
        return frozenset(numbers)

    def _table(self, name: str) -> list[list[str]]:
        try:
            text = (self.root / "etc" / name).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return [line.split(":") for line in text.splitlines() if line and line[0] not in "#+-"]


def present_user() -> Identity:
    """Who runs this process."""
    groups = frozenset({os.getegid(), *os.getgroups()})
    return Identity(f"user {os.geteuid()}", os.geteuid(), os.getegid(), groups)


def obstacle(tree: Tree, path: Path, who: Identity, need: int) -> Path | None:
    """What keeps `who` from `need` (READ, WRITE, SEARCH or-ed) at `path`; None when nothing does.

    A directory on the way that can't be searched is an obstacle, and so is a
    path that does not exist.  The answer is as the system knows it.
    """
    path = Path(path)
    for parent in reversed(path.parents):
        if not _may(tree.at(parent), who, SEARCH):
            return parent
    return None if _may(tree.at(path), who, need) else path


def _may(path: Path, who: Identity, need: int) -> bool:
    try:
        status = path.stat()
    except OSError:
        return False
    if who.uid == os.geteuid() and who.groups <= present_user().groups:
        return os.access(path, need, effective_ids=True)
    if who.uid == 0:
        return not need & SEARCH or stat.S_ISDIR(status.st_mode) or bool(status.st_mode & 0o111)
    if who.uid == status.st_uid:
        bits = status.st_mode >> 6
    elif status.st_gid in who.groups:
        bits = status.st_mode >> 3
    else:
        bits = status.st_mode
    return bits & need == need
