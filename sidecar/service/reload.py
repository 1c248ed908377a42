"""When to read the rules again: on SIGHUP, when a file has changed, when the ttl is over.

In: the files that the rules came from.  Out: a reason each time.  The directories
of the files are watched: an editor replaces a file, and a watch on the file itself
would be lost with it.  A file has changed when its inode, size or time has.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path

from sidecar.log.watch import DirectoryWatch

_SETTLE_SECONDS = 0.1  # an editor writes, renames and sets modes: that is one change

Signature = Mapping[str, tuple[int, int, int] | None]


def signature(files: Iterable[str]) -> Signature:
    """Inode, size and time of each file; None where there is no file."""
    found: dict[str, tuple[int, int, int] | None] = {}
    for file in files:
        try:
            stat = os.stat(file)
        except OSError:
            found[file] = None
        else:
            found[file] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return found


class FileWatch:
    """Sets `changed` when something happens in a directory of the files watched."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self._watches: dict[Path, DirectoryWatch] = {}

    def watch(self, files: Iterable[str]) -> None:
        """Watch the directories of `files`, and no others."""
        wanted = {Path(f).absolute().parent for f in files}
        for directory in self._watches.keys() - wanted:
            self._watches.pop(directory).stop()
        for directory in wanted - self._watches.keys():
            watch = DirectoryWatch(self.changed.set)
            # No such directory, or no more inotify watches: the files are read again after the ttl.
            with contextlib.suppress(OSError):
                watch.start(directory)
                self._watches[directory] = watch

    def clear(self) -> None:
        """Forget what has happened so far."""
        self.changed.clear()
        for watch in self._watches.values():
            watch.take()

    def close(self) -> None:
        """Stop watching."""
        for watch in self._watches.values():
            watch.stop()


async def changes(
    *,
    files: Callable[[], list[str]],
    known: Signature,
    ttl_seconds: Callable[[], float],
    hangup: asyncio.Event,
) -> AsyncIterator[str]:
    """Yield a reason each time that the rules are to be read again.

    `known`: the signature of the files before they were read the last time.
    """
    watch = FileWatch()
    try:
        while True:
            watch.watch(files())
            if signature(files()) != known:
                watch.changed.set()  # it changed before there was a watch
            reason = await _first(watch.changed, hangup, ttl_seconds())
            if reason == "changed file":
                await asyncio.sleep(_SETTLE_SECONDS)
                watch.clear()
                if signature(files()) == known:
                    continue
            # Noted before the files are read: a change while they are read is another reason.
            known = signature(files())
            yield reason
    finally:
        watch.close()


async def _first(changed: asyncio.Event, hangup: asyncio.Event, seconds: float) -> str:
    waits = [asyncio.create_task(changed.wait()), asyncio.create_task(hangup.wait())]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    if hangup.is_set():
        hangup.clear()
        return "SIGHUP"
    return "changed file" if changed.is_set() else "ttl"
