"""``tsa-sidecar run``: the service."""

from __future__ import annotations

import os
from collections.abc import Callable

import click

from sidecar.problems import ProblemError
from sidecar.service.main import serve
from sidecar.service.rules import Settled

from .common import moment, resolver_for, run_async, setting_options, settle


@click.command(short_help="Tail kumod's log, decide, publish; until SIGTERM.")
@setting_options(
    "policy",
    "shaping",
    "merge_options",
    "ttl",
    "dns_zones",
    "nameservers",
    "log_dir",
    "pattern",
    "from",
    "skip_record_types",
    "additional_skip_record_types",
    "overlay",
    "state",
    "listen",
    "trusted_hosts",
    "allowed_hosts",
    "kumod_api",
    "simulate",
    "notify",
    "retention",
    "max_entries",
    "history",
    "share",
    "share_name",
    "share_host",
    "share_sources",
    "share_password_file",
    "share_most",
    "poll",
    "log_format",
)
@click.option("--once", is_flag=True, help="Process what is there now, publish, and end.")
@click.option(
    "--at",
    metavar="TIME",
    help="With --once: take TIME (2026-11-22 15:24, RFC 3339) for the present; for trying out.",
)
def run(once: bool, at: str | None, **options: object) -> None:
    """Tail kumod's log, decide, publish; until SIGTERM.

    SIGHUP reads the policy and the rule files again (so does a change of theirs).
    Every option has a variable, which may stand in /etc/default/tsa-sidecar.
    """
    if at is not None and not once:
        raise ProblemError.one("bad-option", "only together with --once", where="--at")
    clock = _clock(at)

    def settle_again() -> Settled:
        return settle(options)

    first = settle_again()
    run_async(
        serve(
            first,
            settle=settle_again,
            make_resolver=lambda saved: resolver_for(first.settings, saved=saved),
            once=once,
            clock=clock,
            env=os.environ,
        )
    )


def _clock(at: str | None) -> Callable[[], int] | None:
    if at is None:
        return None
    now_ns = moment(at)
    return lambda: now_ns
