"""Findings: what is in order, what hinders, and what to do about it.

In: a tree, what KumoMTA's files say, the settings, and who runs the sidecar.
Out: findings in the order in which they are shown.
"""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sidecar.installation.access import READ, SEARCH, WRITE, Identity, Tree, obstacle
from sidecar.installation.kumomta import KumoMTA
from sidecar.installation.lines import Road
from sidecar.settings import Settings, setting
from sidecar.times import NS

Level = Literal["ok", "note", "warn", "fail"]

ENVIRONMENT = Path("/etc/default/tsa-sidecar")
SLOW_NS = 5 * NS
"""A log whose segments stay open longer than this is too late to react to."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.  ``remedy`` says what to do; it is empty where nothing is."""

    level: Level
    text: str
    remedy: str = ""


def kumomta_findings(kumomta: KumoMTA, road: Road, overlay: Path) -> Iterator[Finding]:
    """Is KumoMTA here, and what does its policy say so far?"""
    if not kumomta.is_there:
        yield Finding(
            "warn",
            f"no KumoMTA below {kumomta.prefix}",
            "--kumomta DIR names another place; on another machine, give it the lines below",
        )
        return
    yield Finding("ok", f"KumoMTA is at {kumomta.prefix}")
    if not kumomta.has_policy:
        yield Finding("warn", f"no policy {kumomta.policy}", "kumod needs one with the lines below")
    for problem in kumomta.problems:
        yield Finding("warn", str(problem))
    if kumomta.daemon_enabled:
        yield Finding(
            "warn",
            "kumo-tsa-daemon is enabled; it has the same rules and the same port, 8008",
            "systemctl disable --now kumo-tsa-daemon, once the lines below are in place",
        )
    yield from _setup_findings(kumomta, road, overlay)


def _setup_findings(kumomta: KumoMTA, road: Road, overlay: Path) -> Iterator[Finding]:
    setup = kumomta.setup
    if setup is None:
        yield Finding(
            "note", "no setup_with_automation was found in the policy", "add the lines below"
        )
        return
    if setup.publish:
        yield Finding(
            "warn",
            f"{setup.where}: kumod publishes its log to {', '.join(setup.publish)}",
            "set publish = {}: the sidecar reads the log files",
        )
    elif setup.publish is None:
        yield Finding(
            "warn", f"{setup.where}: publish is no plain list", "set publish = {}, unless it is"
        )
    else:
        yield Finding("ok", f"{setup.where}: no log hook")
    named = str(overlay) in (setup.extra_files or ())
    if road == "subscribe":
        if not setup.subscribe:
            yield Finding("note", f"{setup.where}: subscribe is empty", "see the lines below")
        if named:
            yield Finding(
                "warn",
                f"{setup.where}: extra_files names the overlay, which also comes by HTTP",
                "take it out of extra_files, or choose --road file",
            )
    elif not named:
        yield Finding(
            "note", f"{setup.where}: extra_files does not name the overlay", "see the lines below"
        )
    else:
        yield Finding("ok", f"{setup.where}: extra_files names the overlay")


def rules_findings(tree: Tree, kumomta: KumoMTA, settings: Settings) -> Iterator[Finding]:
    """Which rule files will the sidecar read, and are they there?"""
    given = settings.origins["shaping"].kind != "default"
    names = settings.reloaded.shaping if given else kumomta.kumods_rules
    where = settings.origins["shaping"].text if given else kumomta.policy_position
    if not names:
        row = setting("shaping")
        yield Finding(
            "fail",
            "no rule files were found",
            f"name them: {row.variable}=… in {ENVIRONMENT}, or write a tsa_init.lua",
        )
        return
    if not given:
        value = " ".join(n for n in names if n != str(settings.fixed.overlay))
        yield Finding(
            "fail",
            f"the rules are in kumod's policy only ({where})",
            f'put TSA_SIDECAR_SHAPING="{value}" into {ENVIRONMENT}',
        )
    for name in names:
        if name == str(settings.fixed.overlay):
            if given:
                yield Finding("fail", f"{name} is the overlay, not a rule file", f"see {where}")
        elif "://" in name or tree.at(Path("/") / name).is_file():
            yield Finding("ok", f"{name} ({where})")
        else:
            yield Finding("fail", f"{name} is not there ({where})", "create it, or take it out")


def log_findings(
    tree: Tree, kumomta: KumoMTA, settings: Settings, who: Identity
) -> Iterator[Finding]:
    """Is it kumod's log that the sidecar reads, may it, and how soon does it come?"""
    directory = settings.fixed.log_dir
    origin = settings.origins["log_dir"]
    source = "by default" if origin.kind == "default" else origin.text
    yield from _readable(tree, directory, who)
    ours = [log for log in kumomta.logs if log.directory == directory]
    best = kumomta.best_log
    if best is None:
        yield Finding(
            "note", "no configure_local_logs with a plain log_dir was found in the policy"
        )
        return
    if not ours:
        yield Finding(
            "fail",
            f"kumod logs to {best.directory} ({best.where}), "
            f"the sidecar reads {directory} ({source})",
            f"put TSA_SIDECAR_LOG_DIR={best.directory} into {ENVIRONMENT}",
        )
        return
    log = ours[0]
    if log.segment_ns is None or log.segment_ns > SLOW_NS:
        held = "until it is full" if log.segment_ns is None else f"{log.segment_ns / NS:g} s"
        yield Finding(
            "warn",
            f"{log.where}: kumod may hold records back as long as a segment is open: {held}",
            "let it write a log for the sidecar with max_segment_duration = '1s' (below)",
        )
    else:
        yield Finding(
            "ok", f"{log.where}: a segment is handed over every {log.segment_ns / NS:g} s"
        )
    if best.directory != directory and best.segment_ns is not None:
        yield Finding(
            "warn",
            f"{best.where}: {best.directory} is handed over sooner",
            f"put TSA_SIDECAR_LOG_DIR={best.directory} into {ENVIRONMENT}",
        )


def _readable(tree: Tree, directory: Path, who: Identity) -> Iterator[Finding]:
    if not tree.at(directory).is_dir():
        yield Finding(
            "warn",
            f"log directory {directory} is not there (yet)",
            "kumod makes it when it starts",
        )
        return
    blocked = obstacle(tree, directory, who, READ | SEARCH)
    if blocked is not None:
        yield Finding(
            "fail",
            f"{who.name} may not read {blocked}",
            f"usermod --append --groups kumod {who.name}, or give its group access to {blocked}",
        )
        return
    yield Finding("ok", f"{who.name} may read {directory}")


def overlay_findings(
    tree: Tree, settings: Settings, who: Identity, kumod: Identity | None
) -> Iterator[Finding]:
    """May the sidecar write the overlay, may kumod read it, and is it valid?"""
    overlay = settings.fixed.overlay
    directory = overlay.parent
    if not tree.at(directory).is_dir():
        yield Finding("warn", f"{directory} is not there", "--write creates it")
        return
    blocked = obstacle(tree, directory, who, READ | WRITE | SEARCH)
    if blocked is None:
        yield Finding("ok", f"{who.name} may write into {directory}")
    else:
        yield Finding(
            "fail", f"{who.name} may not write into {blocked}", f"chown {who.name} {directory}"
        )
    if not tree.at(overlay).exists():
        yield Finding(
            "warn",
            f"{overlay} is not there; kumod logs an error as long as extra_files names it",
            "--write creates an empty one",
        )
        return
    yield _overlay_content(tree, overlay)
    if kumod is not None:
        blocked = obstacle(tree, overlay, kumod, READ)
        if blocked is None:
            yield Finding("ok", f"kumod may read {overlay}")
        else:
            yield Finding(
                "fail",
                f"kumod may not read {blocked}",
                f"chgrp kumod {blocked}; chmod g+rX {blocked}",
            )


def _overlay_content(tree: Tree, overlay: Path) -> Finding:
    remedy = "kumod would fail all of its shaping: remove it and let --write create an empty one"
    try:
        sections = tomllib.loads(tree.at(overlay).read_text(encoding="utf-8"))
    except OSError as error:
        return Finding("warn", f"{overlay} could not be read: {error.strerror}")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        return Finding("fail", f"{overlay} is not valid: {error}", remedy)
    return Finding("ok", f"{overlay} is valid, with {len(sections)} sections")


def listener_finding(settings: Settings, road: Road) -> Finding:
    """Where are the page, the metrics and, on that road, what kumod subscribes to?"""
    listen = settings.fixed.listen
    if listen is not None:
        return Finding("ok", f"http://{listen}/ shows what is in force, and has /metrics")
    where = settings.origins["listen"].text
    remedy = "put an address in place of none, such as 127.0.0.1:8008"
    if road == "subscribe":
        return Finding("fail", f"{where}: none, but kumod subscribes to it", remedy)
    return Finding("note", f"{where}: none, so there is no page and no /metrics", remedy)


def endpoint_finding(url: str, *, timeout: float = 2.0) -> Finding:
    """Does kumod's own HTTP listener answer at `url`?"""
    why = _ask(url, timeout)
    if why is None:
        return Finding("ok", f"kumod answers at {url}")
    return Finding(
        "warn",
        f"kumod does not answer at {url}: {why}",
        "start it, or give the address of its http listener with --kumod-api",
    )


def _ask(url: str, timeout: float) -> str | None:
    """Why it does not answer; None when it does."""
    from sidecar.http_client import Unreachable, get  # noqa: PLC0415 - 30 ms

    try:
        answer = asyncio.run(
            get(f"{url.rstrip('/')}/api/check-liveness/v1", seconds=timeout, largest=1 << 16)
        )
    except Unreachable as error:
        return str(error)
    return None if answer.status == 200 else f"{answer.status} {answer.text}".strip()
