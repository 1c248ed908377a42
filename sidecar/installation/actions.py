"""What ``tsa-sidecar init --write`` does: the overlay's directory, and empty files in it.

In: a tree and the overlay's path.  Out: a list of actions that can be shown
before they are done; an existing file is never written.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from sidecar.automation.overlay import Overlay
from sidecar.installation.access import Tree
from sidecar.problems import ProblemError
from sidecar.publish.snapshot import Snapshot


def empty_files(overlay: Path) -> dict[Path, bytes]:
    """The files of a sidecar that has decided nothing yet: the overlay and those beside it."""
    return Snapshot.build(overlay=Overlay().text()).files(overlay)


@dataclass(frozen=True, slots=True)
class Owner:
    """User and group that shall own what is made; None for both leaves it to the system."""

    uid: int
    gid: int
    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """One directory (``content`` is None) or file to make, with its mode and owner."""

    path: Path
    content: bytes | None
    mode: int
    owner: Owner | None

    def __str__(self) -> str:
        kind = "directory" if self.content is None else "file"
        owner = "" if self.owner is None else f", {self.owner.text}"
        return f"create {kind} {self.path} (mode {self.mode:04o}{owner})"


def needed(tree: Tree, overlay: Path) -> list[Action]:
    """What is missing, in the order in which it has to be made."""
    owner = _owner(tree)
    # kumod's group may read what the sidecar writes; the log, too, is nobody else's.
    directory_mode, file_mode = (0o755, 0o644) if owner is None else (0o2750, 0o640)
    actions = []
    for parent in reversed(overlay.parent.parents):
        if not os.path.lexists(tree.at(parent)):
            actions.append(Action(parent, None, 0o755, None))
    if not os.path.lexists(tree.at(overlay.parent)):
        actions.append(Action(overlay.parent, None, directory_mode, owner))
    for path, content in empty_files(overlay).items():
        if not os.path.lexists(tree.at(path)):
            actions.append(Action(path, content, file_mode, owner))
    return actions


def perform(tree: Tree, action: Action) -> None:
    """Make the directory or file.  Raises ProblemError when the system refuses."""
    path = tree.at(action.path)
    try:
        if action.content is None:
            path.mkdir()
            _give(path, action)
        else:
            _create(path, action.content, action)
    except OSError as error:
        raise ProblemError.one(
            "init-write",
            f"{error.strerror}; run tsa-sidecar init --write as root, or do it by hand",
            file=str(action.path),
            where=str(action).partition(" (")[0].rpartition(" ")[0],
        ) from None


def _create(path: Path, content: bytes, action: Action) -> None:
    # kumod may be running: the file appears whole, and never replaces another.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        temporary.write_bytes(content)
        _give(temporary, action)
        path.hardlink_to(temporary)
    finally:
        temporary.unlink(missing_ok=True)


def _give(path: Path, action: Action) -> None:
    if action.owner is not None:
        os.chown(path, action.owner.uid, action.owner.gid)
    path.chmod(action.mode)


def _owner(tree: Tree) -> Owner | None:
    """The sidecar's own user, if it has one here, and kumod's group."""
    user, group = tree.user("tsa-sidecar"), tree.group("kumod")
    if user is None:
        return None
    gid = user.gid if group is None else group
    return Owner(user.uid, gid, f"tsa-sidecar:{'kumod' if group is not None else 'its group'}")
