"""What the commands share: options made from the table of settings, and errors for people."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from sidecar.policy import load_settings
from sidecar.problems import Problem, ProblemError, one_line
from sidecar.service.rules import Settled
from sidecar.settings import Settings, setting
from sidecar.shaping.mx import (
    DnsResolver,
    OfflineResolver,
    PolicyServers,
    Resolver,
    ZoneResolver,
)
from sidecar.times import NS
from sidecar.tools.moments import parse_moment

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")


class Commands(click.Group):
    """A group whose commands end with one line per problem and exit code 1, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except ProblemError as error:
            report(error.problems)
            ctx.exit(1)
        except BrokenPipeError:
            ctx.exit(0)
        except OSError as error:
            report([os_problem(error)])
            ctx.exit(1)
        finally:
            _flush()


def _flush() -> None:
    """Write what was printed.  A reader that has gone wants no more of it: that is no error."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def os_problem(error: OSError) -> Problem:
    """A problem that says what the system refused, and of which file."""
    file = error.filename
    return Problem(
        "error",
        "system",
        error.strerror or str(error),
        file=os.fsdecode(file) if isinstance(file, str | bytes | os.PathLike) else None,
    )


def report(problems: Iterable[Problem]) -> None:
    """Print each problem on stderr, one line each."""
    for problem in problems:
        click.echo(one_line(f"{problem.level}: {problem}"), err=True)


def setting_options(*names: str) -> Callable[[_F], _F]:
    """Options of a command, one for each setting named."""

    def add(function: _F) -> _F:
        for name in reversed(names):
            row = setting(name)
            if name == "listen":
                function = click.option(
                    "--no-listen", "listen", flag_value="none", help="Open no listener."
                )(function)
            if row.is_flag:
                function = click.option(
                    row.option,
                    name,
                    is_flag=True,
                    default=None,
                    help=f"{row.help} [env: {row.variable}]",
                )(function)
                continue
            function = click.option(
                row.option,
                name.replace("from", "from_"),
                metavar=row.metavar,
                multiple=row.is_list,
                help=f"{row.help} [env: {row.variable}]",
            )(function)
        return function

    return add


def shaping_files(function: _F) -> _F:
    """The argument FILE… of a command that has the setting ``shaping``, too.

    :func:`with_files` puts them where the setting is.
    """
    return click.argument("files", metavar="[FILE]...", nargs=-1)(function)


def with_files(options: Mapping[str, object], files: Sequence[str]) -> dict[str, object]:
    """`options`, with the shaping files given as arguments behind those given as options."""
    named = options["shaping"]
    assert isinstance(named, tuple)
    return {**options, "shaping": (*named, *files)}


def settle(
    options: Mapping[str, object], *, require: Sequence[str] = ("shaping", "log_dir")
) -> Settled:
    """The settings from a command's options, the environment and the policy."""
    given = {("from" if k == "from_" else k): v for k, v in options.items()}
    settings, policy = load_settings(given, os.environ, require=require)
    if policy is None:
        return Settled(settings)
    return Settled(
        settings,
        policy_files=tuple(str(f) for f in policy.files),
        messages=tuple(f"{m.file}:{m.line}: {m.text}" for m in policy.messages),
    )


def resolver_for(
    settings: Settings, *, no_dns: bool = False, saved: Mapping[str, str] | None = None
) -> Resolver:
    """Who answers for MX: master files only when any are given, else the DNS.

    `saved`: what an earlier :class:`DnsResolver` exported.
    """
    if no_dns:
        return OfflineResolver()
    texts = [read_text(path) for path in settings.fixed.dns_zones]
    if texts:
        return ZoneResolver(texts, files=[str(path) for path in settings.fixed.dns_zones])
    said = settings.fixed.dns
    if said.zones and not said.system and not said.nameservers:
        return ZoneResolver(said.zones)
    timeout = said.mx_timeout_ns or said.timeout_ns
    return DnsResolver(
        nameservers=said.nameservers or None,
        timeout=timeout / NS if timeout else 5.0,
        concurrency=said.mx_concurrency or 128,
        saved=saved,
        policies=PolicyServers() if said.mta_sts else None,
    )


def read_text(path: Path) -> str:
    """The text of a file; ProblemError when it is not UTF-8, OSError when it can't be read."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ProblemError.one("encoding", f"not UTF-8: {error.reason}", file=str(path)) from None


def moment(said: str, where: str = "--at") -> int:
    """Unix nanoseconds of what the option `where` says; ProblemError where that is no time."""
    try:
        return parse_moment(said, time.time_ns())
    except ValueError as error:
        raise ProblemError.one("bad-option", str(error), where=where) from None


def period(since: str | None, until: str | None) -> tuple[int | None, int | None]:
    """What the two options say, in Unix nanoseconds; ProblemError where nothing fits."""
    since_ns = None if since is None else moment(since, "--since")
    until_ns = None if until is None else moment(until, "--until")
    if since_ns is not None and until_ns is not None and since_ns >= until_ns:
        message = "is not before --until, so there is nothing between them"
        raise ProblemError.one("bad-option", message, where="--since")
    return since_ns, until_ns


def run_async(work: Coroutine[Any, Any, _T]) -> _T:
    """Run `work` to its end in an event loop of its own."""
    return asyncio.run(work)
