"""A bar on the terminal while the sidecar catches up on a long log."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

from sidecar.log.tail import Tail

_LONG = 16 * 1024 * 1024  # raw bytes: less is read within a second
_EVERY = 0.2


@contextlib.asynccontextmanager
async def progress_on_terminal(tail: Tail) -> AsyncIterator[None]:
    """Show how much of the log is read, where stderr is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    task = asyncio.create_task(_show(tail))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _show(tail: Tail) -> None:
    await asyncio.sleep(_EVERY)
    total = tail.bytes_waiting
    if total < _LONG:
        return
    # Imported here: a service has no terminal, and need not load it.
    from rich import progress  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    columns = (
        progress.TextColumn("catching up"),
        progress.BarColumn(),
        progress.DownloadColumn(),
        progress.TimeRemainingColumn(),
    )
    with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        while (waiting := tail.bytes_waiting) >= _LONG // 16:
            total = max(total, waiting)
            bar.update(task, total=total, completed=total - waiting)
            await asyncio.sleep(_EVERY)
