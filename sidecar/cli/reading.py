"""What the commands that read logs share: how far they are, and what was no log."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator, Sequence

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from sidecar.log.batches import OnProblem
from sidecar.log.blocks import Block
from sidecar.problems import Problem, ProblemError
from sidecar.tools.logs import LinesRead, read_logs


async def read_shown(
    names: Sequence[str], *, on_problem: OnProblem, shown: bool = True
) -> AsyncIterator[Block]:
    """All lines of the logs; on a terminal a line of stderr says how far they are.

    That line gives way to what `on_problem` prints.  Without `shown` there is none: for one who
    prints to the same terminal meanwhile.
    """
    if not shown or not sys.stderr.isatty():
        async for block in read_logs(names, on_problem=on_problem):
            yield block
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:

        def tell(problem: Problem) -> None:
            progress.stop()
            on_problem(problem)
            progress.start()

        task, lines, size = progress.add_task("reading", total=None), 0, 0
        async for block in read_logs(names, on_problem=tell):
            lines, size = lines + block.lines, size + block.size
            said = f"{lines:,} lines, {size / 1e6:,.0f} MB of text read"
            progress.update(task, description=said)
            yield block


def no_logs(read: LinesRead, named: Sequence[str]) -> Iterator[Problem]:
    """A problem for each file that holds no record; ProblemError where no file held one.

    `named`: the logs that the command was given.
    """
    if read.no_logs and not any(read.files.values()):
        message = "holds no log record: give segments of kumod's JSON log"
        raise ProblemError.one("no-log", message, file=named[0] if len(named) == 1 else None)
    for file in read.no_logs:
        yield Problem("warning", "no-log", "holds no log record and was left out", file=file)
