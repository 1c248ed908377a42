"""Reading given segments once, in the order of time: for ``replay``.

In: files and directories.  Out: the same batches as ``tail`` makes.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path

from sidecar.problems import Problem, ProblemError

from .batches import Batch, BatchReader, OnProblem, first_time_ns
from .file import CHUNK_SIZE, FileStatus, open_regular
from .identity import content_head
from .names import parse_name


async def read_paths(
    paths: Sequence[Path],
    *,
    on_problem: OnProblem = lambda _problem: None,
) -> AsyncIterator[Batch]:
    """All that is in `paths`, segments of several series merged by time.

    Of a directory every file but dot-files is read, not those in directories
    below.  Every file counts as finished, whatever its mode: nothing more
    comes.  ProblemError, before anything is read, names each path that is
    missing or may not be read; `on_problem` is told what turns out damaged later.
    """
    reading = BatchReader(on_problem=on_problem, final=True)
    for path, state in await asyncio.to_thread(_files, paths):
        opened_ns = 0
        if parse_name(path.name).opened_ns is None:
            opened_ns = await asyncio.to_thread(_first_time_ns, path)
        reading.known.add(str(path), path, state, opened_ns=opened_ns)
    try:
        while (batch := await reading.next_batch()) is not None or reading.turn_over:
            if batch is not None:
                yield batch
    finally:
        await reading.close_all()


def _files(paths: Iterable[Path]) -> list[tuple[Path, FileStatus]]:
    problems: list[Problem] = []
    found: dict[tuple[int, int], tuple[Path, FileStatus]] = {}
    for path in paths:
        try:
            files = _expand(path)
        except OSError as error:
            problems.append(_unreadable(path, error))
            continue
        for file in files:
            try:
                status = _status(file, named=file == path)
            except OSError as error:
                problems.append(_unreadable(file, error))
                continue
            if status is not None:
                state = FileStatus.of(status, final=True)
                found.setdefault((status.st_dev, status.st_ino), (file, state))
    if problems:
        raise ProblemError(problems)
    return list(found.values())


def _unreadable(path: Path, error: OSError) -> Problem:
    message = f"can't be read: {error.strerror}"
    return Problem("error", "log-unreadable", message, file=str(path))


def _status(file: Path, *, named: bool) -> os.stat_result | None:
    """What ``stat`` says of a file that may be read, OSError of one that may not.

    None for what is not to be read: in a directory that was given, not by its own name.
    """
    try:
        status = os.stat(file)
    except FileNotFoundError:
        if named:
            raise
        return None  # deleted since the directory was listed, or a link to nothing
    if not stat.S_ISREG(status.st_mode):
        if named:
            raise OSError(errno.EINVAL, "is neither a file nor a directory")
        return None
    if not os.access(file, os.R_OK):
        raise PermissionError(errno.EACCES, "Permission denied")
    return status


def _expand(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    return [path / name for name in sorted(os.listdir(path)) if not name.startswith(".")]


def _first_time_ns(path: Path) -> int:
    """When the first record was written, for a file whose name doesn't tell; 0: unknown."""
    try:
        with open(path, "rb", buffering=0, opener=open_regular) as file:
            return first_time_ns(content_head(file.read(CHUNK_SIZE)))
    except OSError:
        return 0  # it will be said when it is read
