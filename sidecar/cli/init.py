"""``tsa-sidecar init``: what is here, what to put into kumod's policy, what to create."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import click

from sidecar.installation.access import Identity, Tree, present_user
from sidecar.installation.actions import Action, needed, perform
from sidecar.installation.checks import (
    ENVIRONMENT,
    SLOW_NS,
    Finding,
    endpoint_finding,
    kumomta_findings,
    listener_finding,
    log_findings,
    overlay_findings,
    rules_findings,
)
from sidecar.installation.kumomta import DEFAULT_RULES, PREFIX, KumoMTA, find
from sidecar.installation.lines import (
    FAST_LOG,
    FAST_LOG_RETENTION,
    ROADS,
    Road,
    Wiring,
    fast_log_commands,
    policy_lines,
)
from sidecar.policy import Policy, load_policy
from sidecar.problems import ProblemError
from sidecar.settings import Settings, policy_path, resolve_settings, setting

from .common import setting_options

KUMOD = "http://127.0.0.1:8000"
_COLOURS = {"ok": "green", "note": "cyan", "warn": "yellow", "fail": "red"}


@click.command(short_help="Look at this machine, and print what is needed to run here.")
@click.option(
    "--road",
    type=click.Choice(ROADS),
    default="file",
    show_default=True,
    help="How decisions reach kumod. file: the overlay as a file, suspensions by kumod's admin "
    "API. subscribe: all by HTTP. lua: all as files, which Lua in kumod reads.",
)
@setting_options("shaping", "log_dir", "overlay", "listen", "kumod_api")
@click.option(
    "--kumomta",
    type=click.Path(path_type=Path),
    default=PREFIX,
    show_default=True,
    help="Where KumoMTA is installed.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("/"),
    help="Look at the system whose root is DIR (an image, a container).",
    metavar="DIR",
)
@click.option("--write", is_flag=True, help="Create what is missing of the sidecar's own files.")
@click.pass_context
def init(
    context: click.Context,
    /,
    road: Road,
    kumomta: Path,
    root: Path,
    write: bool,
    **options: object,
) -> None:
    """Look at this machine's KumoMTA and say what is needed to run beside it.

    Prints what was found, the lines for kumod's init.lua and for
    /etc/default/tsa-sidecar, and which of the sidecar's own files are missing.
    Only --write creates anything: the overlay's directory and empty files in
    it, each shown first; no existing file is ever changed.

    \b
    Exit code: 0 all is well; 1 something hinders, and the remedy is printed;
    3 nothing hinders, but --write has something to create.
    """
    tree = Tree(root)
    env = {**_environment_file(tree), **os.environ}
    found = find(tree, prefix=_whole(kumomta, "--kumomta"))
    settings = resolve_settings(options, env, _policy(tree, kumomta, env), require=())
    for name in ("log_dir", "overlay"):
        _whole(getattr(settings.fixed, name), settings.origins[name].text)
    who = tree.user("tsa-sidecar", extra_groups=("kumod",)) or _present()
    plan = needed(tree, settings.fixed.overlay)
    findings = _show_findings(tree, found, settings, who, road)
    _show_lines(found, settings, road)
    _show_plan(plan, write=write)
    if write:
        for action in plan:
            perform(tree, action)
        # What was missing is there now.  Other errors remain.
        findings = [*_overlay(tree, settings, who), *(f for f in findings if f.level == "fail")]
    context.exit(_exit_code(findings, plan, write=write))


def _whole(path: Path, where: str) -> Path:
    """`path`, which must be absolute: kumod and the service start elsewhere."""
    if not path.is_absolute():
        message = f"{str(path)!r} is relative: give the whole path"
        raise ProblemError.one("relative-path", message, where=where)
    return path


def _exit_code(findings: Iterable[Finding], plan: list[Action], *, write: bool) -> int:
    if any(finding.level == "fail" for finding in findings):
        return 1
    return 3 if plan and not write else 0


def _policy(tree: Tree, kumomta: Path, env: Mapping[str, str]) -> Policy | None:
    default = tree.at(kumomta / "etc" / "policy" / "tsa_init.lua")
    path = policy_path({}, env, default=default)
    if path is None:
        return None
    if path != default:
        path = tree.at(_whole(path, setting("policy").variable))
    return load_policy(path, env=env)


def _environment_file(tree: Tree) -> dict[str, str]:
    """The variables of the service's environment file; an unreadable line sets nothing."""
    try:
        text = tree.at(ENVIRONMENT).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    variables = {}
    for line in text.splitlines():
        name, equals, value = line.strip().partition("=")
        if equals and name.isidentifier():
            try:
                variables[name] = "".join(shlex.split(value)[:1])
            except ValueError:
                continue
    return variables


def _present() -> Identity:
    user = present_user()
    return replace(user, name="root") if user.uid == 0 else user


def _overlay(tree: Tree, settings: Settings, who: Identity) -> list[Finding]:
    return list(overlay_findings(tree, settings, who, tree.user("kumod")))


def _show_findings(
    tree: Tree, found: KumoMTA, settings: Settings, who: Identity, road: Road
) -> list[Finding]:
    url = settings.fixed.kumod_api or KUMOD
    sections: Mapping[str, list[Finding]] = {
        "KumoMTA": [
            *kumomta_findings(found, road, settings.fixed.overlay),
            endpoint_finding(url),
        ],
        "Rules": list(rules_findings(tree, found, settings)),
        "Log": list(log_findings(tree, found, settings, who)),
        "Overlay": _overlay(tree, settings, who),
        "Listener": [listener_finding(settings, road)],
    }
    for title, findings in sections.items():
        click.secho(title, bold=True)
        for finding in findings:
            _show(finding)
        click.echo()
    return [finding for findings in sections.values() for finding in findings]


def _show(finding: Finding) -> None:
    level = click.style(f"{finding.level:<4}", fg=_COLOURS[finding.level])
    click.echo(f"  {level}  {finding.text}")
    if finding.remedy:
        click.echo(f"        {finding.remedy}")


def _show_lines(found: KumoMTA, settings: Settings, road: Road) -> None:
    wiring = _wiring(found, settings, road)
    click.secho(f"Lines for {found.policy} (--road {road})", bold=True)
    click.echo()
    _indented(policy_lines(wiring))
    variables = _variables(wiring, settings)
    if variables:
        click.secho(f"Lines for {ENVIRONMENT}", bold=True)
        click.echo()
        _indented("".join(f"{name}={value}\n" for name, value in variables.items()))
    if wiring.fast_log is not None:
        click.secho(
            "Commands, as root: the sidecar deletes what it has read of that log", bold=True
        )
        click.echo()
        _indented("\n".join(fast_log_commands(wiring.fast_log)))


def _indented(text: str) -> None:
    for line in text.splitlines():
        click.echo(f"    {line}" if line else "")
    click.echo()


def _wiring(found: KumoMTA, settings: Settings, road: Road) -> Wiring:
    wiring = Wiring(road=road, overlay=settings.fixed.overlay, extra_files=_own_rules(settings))
    if settings.fixed.listen is not None:
        wiring = replace(wiring, url=f"http://{settings.fixed.listen}")
    if found.setup is not None and found.setup.extra_files is not None:
        files = tuple(f for f in found.setup.extra_files if f != str(settings.fixed.overlay))
        wiring = replace(wiring, extra_files=files)
    kept = [log for log in found.logs if log.directory != wiring.fast_log]
    if kept:
        wiring = replace(wiring, log_dir=kept[0].directory)
    best = found.best_log
    is_fast = best is not None and best.segment_ns is not None and best.segment_ns <= SLOW_NS
    return replace(wiring, fast_log=None if is_fast else wiring.log_dir / FAST_LOG.name)


def _own_rules(settings: Settings) -> tuple[str, ...]:
    """The site's own rule files.  kumod's shaping.lua loads KumoMTA's own unasked."""
    return tuple(name for name in settings.reloaded.shaping if name != DEFAULT_RULES)


def _variables(wiring: Wiring, settings: Settings) -> dict[str, str]:
    """What the environment file still lacks for these lines."""
    wanted = {}
    if wiring.fast_log is not None and settings.fixed.log_dir != wiring.fast_log:
        wanted["TSA_SIDECAR_LOG_DIR"] = str(wiring.fast_log)
        wanted["TSA_SIDECAR_RETENTION"] = f'"{FAST_LOG_RETENTION}"'
    if wiring.road == "file" and settings.fixed.kumod_api is None:
        wanted["TSA_SIDECAR_KUMOD_API"] = KUMOD
    return wanted


def _show_plan(plan: list[Action], *, write: bool) -> None:
    if not plan:
        click.echo("Nothing to create: the sidecar's own files are all there.")
        return
    click.secho("Creating" if write else "To create with --write", bold=True)
    for action in plan:
        click.echo(f"  {action}")
