"""When to read the rules again: SIGHUP, a changed file, the ttl.

In: the files that the rules came from.  Out: a reason, each time there is one.
watchdog wakes on events of the files' directories (editors replace a file, so
watching the file itself would lose it); what counts as a change is the file's
identity, size and time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path

from sidecar.log.watch import DirectoryWatch

_SETTLE_SECONDS = 0.1  # an editor writes, renames and sets modes: one reload for all of it

Signature = Mapping[str, tuple[int, int, int] | None]


def signature(files: Iterable[str]) -> Signature:
    """What tells a file from its earlier self: inode, size, time; None where there is no file."""
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
            # No such directory, or no more inotify watches: the ttl remains.
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
    """Yield the reason each time that the rules are to be read again.

    `known`: what the files were like before they were read the last time.
    """
    watch = FileWatch()
    try:
        while True:
            watch.watch(files())
            if signature(files()) != known:
                watch.changed.set()  # before there was a watch
            reason = await _first(watch.changed, hangup, ttl_seconds())
            if reason == "changed file":
                await asyncio.sleep(_SETTLE_SECONDS)
                watch.clear()
                if signature(files()) == known:
                    continue
            # Before the files are read: what changes meanwhile makes another reason.
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
