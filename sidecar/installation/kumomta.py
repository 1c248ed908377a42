"""What KumoMTA's files on this machine say: its logs, its shaping setup, its rules.

In: a tree.  Out: a :class:`KumoMTA`, with empty fields for what is not found.
``init.lua`` and its neighbours are scanned as text (:mod:`.luascan`).
``tsa_init.lua`` is not looked at here: the sidecar runs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sidecar.installation.access import Tree
from sidecar.installation.luascan import Call, Table, calls
from sidecar.problems import Problem
from sidecar.shaping.specs import parse_duration

PREFIX = Path("/opt/kumomta")
DEFAULT_RULES = "/opt/kumomta/share/policy-extras/shaping.toml"
_DAEMON = "kumo-tsa-daemon.service"
_WANTED = ("etc/systemd/system/multi-user.target.wants",)


@dataclass(frozen=True, slots=True)
class LocalLog:
    """One ``configure_local_logs``: its directory, how long a segment stays open, and its line."""

    directory: Path
    segment_ns: int | None
    where: str


@dataclass(frozen=True, slots=True)
class ShapingSetup:
    """One ``setup_with_automation``: its lists, None where they are no plain lists of texts."""

    publish: tuple[str, ...] | None
    subscribe: tuple[str, ...] | None
    extra_files: tuple[str, ...] | None
    default_files: bool
    where: str


@dataclass(frozen=True, slots=True)
class KumoMTA:
    """An installed KumoMTA.

    ``policy`` is its init.lua, whether or not it is there; ``logs`` are ordered
    as found.
    """

    prefix: Path
    is_there: bool
    policy: Path
    has_policy: bool
    logs: tuple[LocalLog, ...] = ()
    setup: ShapingSetup | None = None
    daemon_enabled: bool = False
    problems: tuple[Problem, ...] = ()

    @property
    def kumods_rules(self) -> tuple[str, ...]:
        """The shaping files that kumod itself loads, as far as its policy says so plainly."""
        if self.setup is None or self.setup.extra_files is None:
            return ()
        default = (DEFAULT_RULES,) if self.setup.default_files else ()
        return (*default, *self.setup.extra_files)

    @property
    def policy_position(self) -> str:
        """Where kumod's shaping is set up, for people."""
        return str(self.policy) if self.setup is None else self.setup.where

    @property
    def best_log(self) -> LocalLog | None:
        """The log whose segments are handed over soonest."""
        known = [log for log in self.logs if log.segment_ns is not None]
        if known:
            return min(known, key=lambda log: log.segment_ns or 0)
        return self.logs[0] if self.logs else None


def find(tree: Tree, *, prefix: Path = PREFIX) -> KumoMTA:
    """Look for KumoMTA below `prefix`."""
    directory = prefix / "etc" / "policy"
    policy = directory / "init.lua"
    found, problems = _scan(tree, directory)
    setup = next((s for where, call in found if (s := _setup(where, call)) is not None), None)
    return KumoMTA(
        prefix=prefix,
        is_there=tree.at(prefix / "sbin" / "kumod").exists() or tree.at(directory).is_dir(),
        policy=policy,
        has_policy=tree.at(policy).is_file(),
        logs=tuple(log for where, call in found for log in _logs(where, call)),
        setup=setup,
        daemon_enabled=any((tree.root / wanted / _DAEMON).is_symlink() for wanted in _WANTED),
        problems=tuple(problems),
    )


def _scan(tree: Tree, directory: Path) -> tuple[list[tuple[str, Call]], list[Problem]]:
    """The calls of interest in the policy's files, init.lua first, with where they are."""
    names = sorted(tree.at(directory).glob("*.lua"), key=lambda p: (p.name != "init.lua", p.name))
    found, problems = [], []
    for path in names:
        known_as = directory / path.name
        try:
            source = path.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            message = f"could not be read: {error.strerror}"
            problems.append(Problem("warning", "init-policy", message, file=str(known_as)))
            continue
        found += [
            (f"{known_as}:{call.line}", call)
            for call in calls(source, "configure_local_logs", "setup_with_automation")
        ]
    return found, problems


def _logs(where: str, call: Call) -> list[LocalLog]:
    if call.name != "configure_local_logs":
        return []
    segment_ns = _segment_ns(call.fields)
    directories = [call.fields.get("log_dir")]
    per_record = call.fields.get("per_record")
    if isinstance(per_record, Mapping):
        directories += [r.get("log_dir") for r in per_record.values() if isinstance(r, Mapping)]
    names = dict.fromkeys(d for d in directories if isinstance(d, str) and d.startswith("/"))
    return [LocalLog(Path(name), segment_ns, where) for name in names]


def _segment_ns(fields: Table) -> int | None:
    value = fields.get("max_segment_duration")
    try:
        return None if value is None else parse_duration(value)
    except ValueError:
        return None


def _setup(where: str, call: Call) -> ShapingSetup | None:
    if call.name != "setup_with_automation":
        return None
    return ShapingSetup(
        publish=_texts(call.fields, "publish"),
        subscribe=_texts(call.fields, "subscribe"),
        extra_files=_texts(call.fields, "extra_files"),
        default_files=call.fields.get("no_default_files") is not True,
        where=where,
    )


def _texts(fields: Table, name: str) -> tuple[str, ...] | None:
    value = fields.get(name)
    if not isinstance(value, Mapping):
        return None
    texts = tuple(item for item in value.values() if isinstance(item, str))
    return texts if len(texts) == len(value) else None
