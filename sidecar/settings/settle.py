"""Settling: each setting's value from the option, the variable, the policy or the default.

In: the command line's options, the environment, and what the policy said.  Out:
one frozen :class:`Settings`.  An option wins over a variable, a variable over
the policy, the policy over the default.

Lists in variables are written as a shell would: separated by blanks, with
quotes around a name that holds one (a colon would cut URLs and IPv6 addresses
apart).  Lists whose items hold no comma may be separated by commas, too.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sidecar.problems import Problem, ProblemError

from .parse import ListText, did_you_mean
from .said import Policy
from .table import DEBUG, DEFAULT_POLICY, FAULT, PREFIX, SETTINGS, Setting, setting
from .values import DnsSettings, Fixed, Origin, Reloaded, Settings


def policy_path(
    options: Mapping[str, object], env: Mapping[str, str], *, default: Path = DEFAULT_POLICY
) -> Path | None:
    """The policy file to load: as named by option or variable, else `default` if it is there.

    A `default` that can't be looked for is returned, too: loading it says why.  Raises
    ProblemError where what was named is no file's name.
    """
    row = SETTINGS[0]
    raw, origin = _choose(row, options, env, None)
    if origin.kind != "default":
        try:
            return Path(row.check(raw))
        except ValueError as error:
            raise ProblemError.one("bad-setting", str(error), where=origin.text) from None
    try:
        default.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass
    return default


def resolve_settings(
    options: Mapping[str, object],
    env: Mapping[str, str],
    policy: Policy | None,
    *,
    require: Sequence[str] = ("shaping", "log_dir"),
) -> Settings:
    """Settle every setting: option, variable, policy, default, in this order.

    `options` maps setting names to what the command line gave; None and () mean not
    given, and False for ``listen`` is ``--no-listen``.  `require` names settings whose
    absence is a problem: no shaping files, or no directory for the overlay or the
    state, is an error; a log directory that is not there yet is a warning.

    Raises ProblemError with everything that is wrong.
    """
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {"policy": _policy_origin(options, env)}
    errors: list[Problem] = []
    for row in SETTINGS[1:]:
        raw, origin = _choose(row, options, env, policy)
        origins[row.name] = origin
        try:
            # The policy's values were checked already, where their lines are known.
            values[row.name] = raw if origin.kind == "policy" else row.check(raw)
        except ValueError as error:
            errors.append(Problem("error", "bad-setting", str(error), where=origin.text))
            values[row.name] = row.parse(row.default)
    settings = _settings(values, origins, policy)
    found = [p for name in require for p in _missing(name, settings)]
    found += _listener_problems(settings) + _share_problems(settings) + _unknown_variables(env)
    errors += [p for p in found if p.level == "error"]
    if errors:
        raise ProblemError(errors)
    warnings = policy.warnings if policy is not None else ()
    return replace(settings, warnings=(*warnings, *found))


def _choose(
    row: Setting, options: Mapping[str, object], env: Mapping[str, str], policy: Policy | None
) -> tuple[object, Origin]:
    """The plain value that wins (from the policy: the parsed one), and its origin."""
    given = options.get(row.name)
    if given is not None and given != ():
        return given, Origin("option", row.option)
    for variable in row.variables:
        text = env.get(variable)
        if text is not None and (text.strip() or row.empty_is_value):
            return ListText(text) if row.is_list else text, Origin("variable", variable)
    if policy is not None and row.name in policy.values:
        said = policy.values[row.name]
        return said.value, Origin("policy", said.position)
    return row.default, Origin("default", "default")


def _policy_origin(options: Mapping[str, object], env: Mapping[str, str]) -> Origin:
    return _choose(SETTINGS[0], options, env, None)[1]


def _settings(
    values: Mapping[str, Any], origins: Mapping[str, Origin], policy: Policy | None
) -> Settings:
    dns = DnsSettings() if policy is None else policy.dns
    fixed = Fixed(
        dns_zones=values["dns_zones"],
        dns=replace(dns, nameservers=values["nameservers"]),
        log_dir=values["log_dir"],
        pattern=values["pattern"],
        start=values["from"],
        overlay=values["overlay"],
        state=values["state"],
        listen=values["listen"],
        trusted_hosts=values["trusted_hosts"],
        allowed_hosts=values["allowed_hosts"],
        kumod_api=values["kumod_api"],
        notify=values["notify"],
        simulate=values["simulate"],
        share=values["share"],
        share_name=values["share_name"],
        share_host=values["share_host"],
        share_sources=values["share_sources"],
        share_password_file=values["share_password_file"],
        share_most=values["share_most"],
        retention=values["retention"],
        poll_seconds=values["poll"],
        log_format=values["log_format"],
    )
    return Settings(
        fixed=_simulating(fixed, origins) if fixed.simulate else fixed,
        reloaded=Reloaded(
            policy=None if policy is None else policy.path,
            shaping=values["shaping"],
            merge_options=values["merge_options"],
            ttl_ns=values["ttl"],
            skip_record_types=values["skip_record_types"] | values["additional_skip_record_types"],
            max_entries=values["max_entries"],
            history_ns=values["history"],
        ),
        origins=MappingProxyType(dict(origins)),
    )


def _simulating(fixed: Fixed, origins: Mapping[str, Origin]) -> Fixed:
    """`fixed` without all by which a run has an effect, whatever policy and variables say.

    A listener that the policy or nobody asked for could be the one that kumod subscribes
    to; a state that they name is that of the run that does have effects.
    """
    by_hand = ("option", "variable")
    own_state = fixed.state.with_suffix(".simulated" + fixed.state.suffix)
    return replace(
        fixed,
        kumod_api=None,
        notify=None,
        retention=None,
        listen=fixed.listen if origins["listen"].kind in by_hand else None,
        state=fixed.state if origins["state"].kind in by_hand else own_state,
    )


_SETTING_OF = {"start": "from", "poll_seconds": "poll", "dns": "nameservers"}
"""The settings whose fields have other names."""


def restart_problem(fields: Sequence[str], settings: Settings) -> Problem | None:
    """A problem that names `fields`, which need a restart for their new values in `settings`.

    None where there are no fields.
    """
    if not fields:
        return None
    names = [_SETTING_OF.get(field, field) for field in fields]
    changed = ", ".join(f"{name} ({settings.origins[name].text})" for name in names)
    paused = "; until then nothing is deleted" if "retention" in fields else ""
    message = f"changed: {changed}. Only a restart makes this take effect{paused}"
    return Problem("warning", "restart-needed", message)


def _missing(name: str, settings: Settings) -> list[Problem]:
    row = setting(name)
    by = f"{row.option} or {row.variable}"
    if name == "shaping" and not settings.reloaded.shaping:
        hint = (
            f"give with --policy a tsa_init.lua that loads them ({DEFAULT_POLICY} is not there)"
            if settings.reloaded.policy is None
            else f"let {settings.reloaded.policy} load them in tsa_load_shaping_data"
        )
        return [Problem("error", "no-shaping", f"no shaping files: name them with {by}, or {hint}")]
    if name == "log_dir" and (reason := _no_directory(settings.fixed.log_dir)) is not None:
        directory = settings.fixed.log_dir
        message = f"log directory {directory} can't be read (yet): {reason}; {by} names another"
        return [Problem("warning", "no-log-dir", message)]
    if name == "state" or (name == "overlay" and not settings.fixed.simulate):
        path: Path = getattr(settings.fixed, name)
        if (reason := _no_directory(path.parent)) is not None:
            message = (
                f"the directory of {path} can't be used: {reason}; create it, or name another "
                f"with {by}"
            )
            return [Problem("error", f"no-{name}-dir", message)]
    return []


def _no_directory(path: Path) -> str | None:
    """Why `path` is no directory that can be used; None where it is one."""
    try:
        # is_dir() would raise where a directory above may not be searched.
        is_directory = stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        return error.strerror or str(error)
    return None if is_directory else os.strerror(errno.ENOTDIR)


def _listener_problems(settings: Settings) -> list[Problem]:
    listen = settings.fixed.listen
    if listen is None or listen.is_loopback or settings.origins["trusted_hosts"].kind != "default":
        return []
    row = setting("trusted_hosts")
    message = (
        f"{listen} can be reached from other machines: say who may connect with {row.option}, "
        f"{row.variable} or trusted_hosts in the policy (your kumod's addresses), or listen on "
        "127.0.0.1"
    )
    origin = settings.origins["listen"].text
    return [Problem("error", "listener-without-trusted-hosts", message, where=origin)]


def _share_problems(settings: Settings) -> list[Problem]:
    """A secret where everybody on the host sees it."""
    address = settings.fixed.share
    if address is None or settings.origins["share"].kind != "option":
        return []
    if address.password is None and address.sentinel_password is None:
        return []
    from sidecar.share.address import REMEDY  # noqa: PLC0415

    return [Problem("error", "share-url", REMEDY, where="--share")]


def _unknown_variables(env: Mapping[str, str]) -> list[Problem]:
    known = {name for row in SETTINGS for name in row.variables} | {DEBUG, FAULT}
    return [
        Problem(
            "warning",
            "unknown-variable",
            f"no setting has this variable{did_you_mean(name, sorted(known))}",
            where=name,
        )
        for name in sorted(env)
        if name.startswith(PREFIX) and name not in known
    ]
