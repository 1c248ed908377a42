"""Following a log directory: its segments, as they appear, grow, finish and go.

In: a directory and how far earlier runs came.  Out: batches (see ``batches``).
Woken by inotify; a slow poll is the safety net, and the only way on file
systems that have no events.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import translate
from pathlib import Path
from typing import Final, Literal

from sidecar.problems import Problem
from sidecar.times import until_tick

from .batches import Batch, BatchReader, OnProblem, Sieve
from .file import FileStatus, open_regular
from .identity import HEAD_SIZE, fingerprint_fits
from .names import parse_name
from .segment import Checkpoint, Segment
from .states import HAS_NO_NAME, Event, State
from .watch import DirectoryWatch

POLL_SECONDS: Final = 1.0
"""How often to look where no event says that there is something to see."""

VANISH_SECONDS: Final = 2.0
"""How long a segment may be away before it counts as deleted: a rename is two events."""

_LISTING_SHARE: Final = 50  # a listing may take one fiftieth of the time
_LISTING_SECONDS_EVENTFUL: Final = 10.0  # between listings while events tell of changes
_LISTING_SECONDS_MAX: Final = 60.0  # a directory's time isn't to be trusted on every file system
_GROWING_MAX: Final = 256  # unfinished segments looked at in a poll; others wait for the listing
_WATCH_RETRY_SECONDS: Final = 60.0
_CHECKED_AT_ONCE: Final = 64


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin in segments that there is no checkpoint of.

    ``recent``: with those that were still open at `since_ns` (Unix
    nanoseconds; None: all).  ``beginning``: with the oldest.  ``end``: with what
    is written from now on, if there are no checkpoints at all; otherwise as
    ``recent``, since the others were written after the last run.
    """

    mode: Literal["recent", "end", "beginning"] = "recent"
    since_ns: int | None = None


class Tail:
    """The log directory.  Use as ``async with``, or call :meth:`close`.

    `on_problem` is told, once for each thing, what could not be read and why;
    `sieve` is asked once a batch for what chooses the lines to hand on (None: all of them);
    `numbered`: blocks say which lines those are.
    """

    def __init__(
        self,
        directory: Path,
        *,
        pattern: str = "*",
        checkpoints: Mapping[str, Checkpoint] | None = None,
        start: Start | None = None,
        poll_seconds: float = POLL_SECONDS,
        on_problem: OnProblem = lambda _problem: None,
        sieve: Callable[[], Sieve] | None = None,
        numbered: bool = False,
    ) -> None:
        self.directory = directory
        self._pattern = re.compile(translate(pattern))
        self._checkpoints = dict(checkpoints or {})
        self._start = start or Start()
        self._since_ns = None if self._start.mode == "beginning" else self._start.since_ns
        self._from_end = self._start.mode == "end" and not self._checkpoints
        self._poll_seconds = poll_seconds
        self._on_problem = on_problem
        self._reader = BatchReader(on_problem=on_problem, sieve=sieve, numbered=numbered)
        self._wake = asyncio.Event()
        self._watch = DirectoryWatch(self._wake.set)
        self._following = False
        self._watch_retry_at = 0.0
        self._watched: tuple[int, int] | None = None
        self._listed: _Listing | None = None
        self._eventful = False  # there have been events since
        self._poll_at = 0.0
        self._skipped: set[str] = set()
        self._unchecked: list[Segment] = []
        self._told: set[str] = set()

    @property
    def waiting(self) -> int:
        """How many segments there are that are not wholly read (or still being written)."""
        return sum(1 for _ in self._reader.known.waiting())

    @property
    def bytes_waiting(self) -> int:
        """How many raw bytes of them have not been read: for showing progress."""
        total = 0
        for segment in self._reader.known.waiting():
            if segment.status is not None:
                read = segment.read_to if segment.file is None else segment.file.raw_read
                total += max(segment.status.size - read, 0)
        return total

    @property
    def has_no_directory(self) -> bool:
        """Whether the log directory could not be read when last looked for."""
        return "log-dir-unreadable" in self._told

    @property
    def floor_ns(self) -> int | None:
        """What was finished before this moment is not read, nor remembered.

        Store it, and never start from an earlier one: segments older than it
        are not known any more to have been read.
        """
        return self._since_ns

    def forget_before(self, since_ns: int) -> None:
        """Segments finished before `since_ns` need not be remembered, nor read if they turn up.

        For the caller, to whom records so old are of no consequence.
        """
        if self._start.mode != "beginning":
            self._since_ns = max(since_ns, self._since_ns or since_ns)

    async def __aenter__(self) -> Tail:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all files and stop watching.  May be called again."""
        await self._reader.close_all()
        self._watch.stop()

    async def blocks(self, *, follow: bool) -> AsyncIterator[Batch]:
        """Batches of what there is to read, oldest first; with `follow` what is written later, too.

        A batch counts as dealt with when the next one is asked for.  Without
        `follow` it ends when everything that is there now has been handed on.
        """
        self._following = follow
        await self._notice_changes(listing=True)
        while True:
            batch = await self._reader.next_batch()
            if batch is None and self._reader.turn_over:
                await self._notice_changes()
                await asyncio.sleep(0)
                continue
            if batch is None and not await self._check_complete():
                if follow:
                    await self._pause()
                elif not await self._notice_changes(listing=True):
                    break
                await self._notice_changes()
                continue
            if batch is not None:
                yield batch
            await self._notice_changes()
            await asyncio.sleep(0)  # decompressing doesn't wait for anything, others may have to
        await self._reader.conclude_vanished(grace=0.0)
        while (batch := await self._reader.next_batch()) is not None or self._reader.turn_over:
            if batch is not None:
                yield batch

    async def _pause(self) -> None:
        """Wait for an event or the time to poll."""
        timeout = max(min(self._poll_at, self._reader.retry_at()) - time.monotonic(), 0.0)
        try:
            async with asyncio.timeout(timeout):
                await self._wake.wait()
        except TimeoutError:
            pass

    # -- looking ----------------------------------------------------------------------

    async def _notice_changes(self, *, listing: bool = False) -> bool:
        """Look for changed files; returns whether there is something to read."""
        self._wake.clear()
        for name in self._watch.take():
            self._eventful = True
            if name:
                await self._look_at(name)
            else:  # the directory itself is gone, and the watch with it
                self._stop_watching()
                self._poll_at = 0.0
        now = time.monotonic()
        if listing or now >= self._poll_at:
            self._poll_at = now + until_tick(now, self._poll_seconds)
            await self._poll(listing=listing)
        return any(segment.readable(now) for segment in self._reader.known.waiting())

    async def _poll(self, *, listing: bool) -> None:
        try:
            place = os.stat(self.directory)
            if not stat.S_ISDIR(place.st_mode):
                raise NotADirectoryError(20, "is not a directory")
        except OSError as error:
            self._no_directory(error)
            return
        if self._following:
            self._keep_watching(place)
        growing = [s for s in self._reader.known.waiting() if not (s.status and s.status.finished)]
        for segment in growing[-_GROWING_MAX:]:
            await self._look_at(segment.name)
        if listing or self._listed is None or self._listed.due(place, eventful=self._eventful):
            await self._list_directory(place)
            listing = True
        old = self._old_vanished() if listing else ()
        await self._reader.conclude_vanished(grace=VANISH_SECONDS, old=old)

    def _no_directory(self, error: OSError) -> None:
        """It may come back, with all that was in it: nothing is concluded from its absence."""
        self._stop_watching()
        self._from_end = False  # all that will be in it was written later
        self._report(
            "log-dir-unreadable",
            f"the log directory can't be read ({error.strerror}); waiting for it. "
            "Is --log-dir (TSA_SIDECAR_LOG_DIR) what kumod's configure_local_logs has as log_dir?",
        )

    def _keep_watching(self, place: os.stat_result) -> None:
        """Watch the directory that is there now, which may be another than before."""
        identity = (place.st_dev, place.st_ino)
        now = time.monotonic()
        if identity == self._watched and (self._watch.active or now < self._watch_retry_at):
            return
        if identity != self._watched:
            self._listed = None
        self._watched = identity
        try:
            self._watch.start(self.directory)
            self._listed = None  # between the last look and the first event may be a gap
            self._told.discard("watch-unavailable")
        except OSError as error:
            self._watch_retry_at = now + _WATCH_RETRY_SECONDS
            self._report(
                "watch-unavailable",
                f"no file system events ({error.strerror}): looking every {self._poll_seconds:g} s"
                " instead. Raise fs.inotify.max_user_instances and max_user_watches (sysctl)",
            )

    def _stop_watching(self) -> None:
        self._watch.stop()
        self._watched = None
        self._listed = None

    def _report(self, code: str, message: str) -> None:
        if code not in self._told:
            self._told.add(code)
            self._on_problem(Problem("warning", code, message, file=str(self.directory)))

    # -- segments ---------------------------------------------------------------------

    def _matches(self, name: str) -> bool:
        """Whether `name` may be a segment's: it fits the pattern, is text, and is no dot-file."""
        if name.startswith(".") or self._pattern.match(name) is None:
            return False
        return name.isascii() or not any("\ud800" <= char <= "\udfff" for char in name)

    async def _list_directory(self, place: os.stat_result) -> None:
        """Look at every name there is."""
        began = time.monotonic()
        try:
            with os.scandir(self.directory) as entries:
                inodes = {e.name: e.inode() for e in entries if self._matches(e.name)}
        except OSError as error:
            self._no_directory(error)
            return
        first = not self._reader.known.segments
        known = self._reader.known.segments
        old = self._closed_before(inodes)
        for name, checkpoint in self._checkpoints.items():
            if name not in inodes and self._matches(name):
                path = self.directory / name
                self._reader.known.add(name, path, None, checkpoint=checkpoint)
        for segment in [s for n, s in known.items() if n not in inodes]:
            await self._reader.vanish(segment)
        for name, inode in inodes.items():
            segment_known = known.get(name)
            if name in self._skipped or (
                name in old and await self._leave_out(name, segment_known)
            ):
                continue
            if (
                segment_known is None
                or segment_known.state is not State.COMPLETE
                or segment_known.id is None
                or segment_known.id.inode != inode
            ):
                await self._look_at(name)
        self._checkpoints = {}
        if first:
            self._unchecked = [s for s in known.values() if s.state is State.COMPLETE]
        self._from_end = False
        self._skipped &= inodes.keys()
        self._eventful = False
        settled = self._listed is not None and self._listed.mtime_ns == place.st_mtime_ns
        self._told.discard("log-dir-unreadable")
        self._listed = _Listing(place.st_mtime_ns, settled, began, time.monotonic())

    def _closed_before(self, names: Iterable[str]) -> set[str]:
        """Names of segments whose successors in their series were opened before `since_ns`.

        Of one series for sure: the whole suffix counts.
        """
        since_ns = self._since_ns
        if since_ns is None:
            return set()
        newest: dict[str, tuple[int, str]] = {}
        opened: list[tuple[int, str, str]] = []
        known = self._reader.known.segments
        for name in names:
            if name in self._skipped:  # was closed before an earlier moment
                continue
            parsed = known[name].parsed if name in known else parse_name(name)
            if parsed.opened_ns is None or parsed.opened_ns > since_ns:
                continue
            moment = (parsed.opened_ns, name)
            opened.append((parsed.opened_ns, name, parsed.suffix))
            newest[parsed.suffix] = max(newest.get(parsed.suffix, moment), moment)
        return {name for at, name, suffix in opened if newest[suffix] != (at, name)}

    def _old_vanished(self) -> set[str]:
        """Names of vanished segments that would be left alone if they came back."""
        known, since_ns = self._reader.known, self._since_ns
        if not known.vanished or since_ns is None:
            return set()
        closed = self._closed_before(known.segments)
        return {
            s.name
            for s in known.vanished
            if s.name in closed or (s.parsed.opened_ns is None and 0 < s.time_ns < since_ns)
        }

    def _is_growing(self, name: str) -> bool:
        """Whether it was lately written to and may be yet, whatever came after it.

        kumod may keep several logs in one directory.
        """
        try:
            state = FileStatus.of(os.stat(self.directory / name))
        except OSError:
            return False
        return not state.finished and state.mtime_ns >= (self._since_ns or 0)

    async def _leave_out(self, name: str, segment: Segment | None) -> bool:
        """Leave an old segment out unless reading it has begun; returns whether that was done."""
        if segment is None:
            checkpoint = self._checkpoints.get(name)
            begun = checkpoint is not None and not checkpoint.done
            if begun or self._is_growing(name):
                return False
            self._skipped.add(name)
            if checkpoint is not None:
                self._reader.known.forget(name)
            return True
        if segment.state in {State.COMPLETE, State.GONE}:
            await self._reader.forget(segment)
            self._skipped.add(name)
            return True
        return False

    async def _look_at(self, name: str) -> None:
        """Look at the file of one name: it may be new, changed, gone, or no segment."""
        if not self._matches(name) or name in self._skipped:
            return
        segment = self._reader.known.segments.get(name)
        path = self.directory / name
        try:
            found = os.stat(path)
        except OSError as error:
            if segment is not None and error.errno in {errno.ENOENT, errno.ENOTDIR}:
                await self._reader.vanish(segment)
            return
        if not stat.S_ISREG(found.st_mode):
            if segment is not None:
                await self._reader.vanish(segment)
            return
        status = FileStatus.of(found)
        if segment is None:
            self._add(name, path, status)
        elif segment.state in HAS_NO_NAME:
            await self._reader.appear(segment, status)
        else:
            if _may_be_another(segment, status):
                await self._reader.doubt(segment)
            segment.status = status

    def _add(self, name: str, path: Path, status: FileStatus) -> None:
        """Make a new file known as a segment, to be read from where an earlier run stopped."""
        known = self._reader.known
        checkpoint = self._checkpoints.get(name)
        segment = known.add(name, path, status, checkpoint=checkpoint, opened_ns=status.mtime_ns)
        if checkpoint is not None:
            if checkpoint.done and checkpoint.id.inode not in {0, status.inode}:
                known.happens(segment, Event.CHANGED)
        elif self._from_end:
            segment.skip_to = status.size
            if status.finished:
                known.complete(segment, Event.ALREADY_READ)

    async def _check_complete(self) -> bool:
        """Check some of the segments that an earlier run completed; returns whether any were left.

        A few at a time, when there is nothing else to do: an inode's number is
        soon used again, so that another file may have both name and number.
        """
        if not self._unchecked:
            return False
        some = self._unchecked[:_CHECKED_AT_ONCE]
        del self._unchecked[:_CHECKED_AT_ONCE]
        changed = await asyncio.to_thread(_with_other_contents, some)
        for segment in [s for s in changed if s.state is State.COMPLETE]:
            await self._reader.doubt(segment)
        return True


def _may_be_another(segment: Segment, status: FileStatus) -> bool:
    """Whether a file of this status, under the segment's name, may be another than was read."""
    if segment.id is not None and segment.id.inode not in {0, status.inode}:
        return True
    if segment.complete:
        return status != segment.status
    return segment.file is not None and status.size < segment.file.raw_read


@dataclass(frozen=True, slots=True)
class _Listing:
    """When the directory was last listed, and its mtime then.

    ``settled``: that was its mtime the time before, too.  Only then is it to be
    trusted, since changes within one tick of the kernel's clock leave one mtime.
    """

    mtime_ns: int
    settled: bool
    began: float
    ended: float

    def due(self, place: os.stat_result, *, eventful: bool) -> bool:
        """Whether to list it again.

        `eventful`: events have told of changes, so there is no hurry.  A watch
        alone means nothing: on network file systems it may stay silent.
        """
        age = time.monotonic() - self.ended
        if age < _LISTING_SHARE * (self.ended - self.began):
            return False
        if age >= _LISTING_SECONDS_MAX:
            return True
        if eventful and age < _LISTING_SECONDS_EVENTFUL:
            return False
        return not self.settled or place.st_mtime_ns != self.mtime_ns


def _with_other_contents(segments: Iterable[Segment]) -> list[Segment]:
    """The segments whose files begin or end otherwise than when they were read.

    Reads the files, so call it in a worker thread.
    """
    found = []
    for segment in segments:
        try:
            with open(segment.path, "rb", buffering=0, opener=open_regular) as file:
                head = file.read(HEAD_SIZE)
                size = os.fstat(file.fileno()).st_size
        except OSError:
            continue
        begins_alike = segment.id is None or fingerprint_fits(segment.id.fingerprint, head)
        if not begins_alike or segment.grown_to(size):
            found.append(segment)
    return found
