"""The Python side of a running policy: one function that Lua calls.

In: an operation's name and plain values (:func:`from_lua`).  Out: True and a
plain value, or False and a reason; never an exception, never a Python object,
so that Lua gets no handle on Python.  What the policy says is collected here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import IO, Any

from sidecar.policy import dns, functions
from sidecar.policy.exchange import Answer
from sidecar.problems import Problem
from sidecar.settings import DnsSettings, did_you_mean, policy_keys, setting
from sidecar.settings.said import LogLine, Said
from sidecar.shaping.specs import parse_duration

MAX_DEPTH = 64
MAX_VALUES = 100_000
MAX_MESSAGES = 1000
MAX_MESSAGE = 1000
"""How many characters of what the policy says are kept."""

EVENTS = ("tsa_init", "tsa_load_shaping_data")
"""The events that kumo-tsa-daemon triggers, and so does the sidecar."""

_LISTENER = (
    "hostname",
    "listen",
    "request_body_limit",
    "tls_certificate",
    "tls_private_key",
    "trusted_hosts",
    "use_tls",
)
_MEMOIZE = (
    "allow_stale_reads",
    "capacity",
    "invalidate_with_epoch",
    "name",
    "populate_timeout",
    "retry_on_populate_timeout",
    "ttl",
)
_UPSTREAM_LISTEN = "127.0.0.1:8000"


class _Alien:
    """A Lua function, coroutine or userdata where a plain value was wanted."""


def from_lua(value: Any, lua_type: Callable[[Any], str | None]) -> Any:
    """`value` as None, bool, int, float, str, list or dict.

    A table with the keys 1…n is a list, any other a dict, an empty one an
    empty dict.  Text that is not UTF-8 keeps its bytes as surrogates.  Raises
    ValueError for what is nested too deeply (or in itself) or too large.
    """
    seen = size = 0

    def convert(value: Any, depth: int) -> Any:
        nonlocal seen, size
        seen += 1
        if seen > MAX_VALUES:
            raise ValueError(f"a table with more than {MAX_VALUES} values")
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, bytes):
            size += len(value)
            if size > functions.MAX_TEXT:
                raise ValueError(f"text longer than {functions.MAX_TEXT >> 20} MiB")
            return value.decode("utf-8", "surrogateescape")
        if lua_type(value) != "table":
            return _Alien()
        if depth >= MAX_DEPTH:
            raise ValueError(f"a table nested in itself, or more than {MAX_DEPTH} deep")
        items = {convert(k, depth + 1): convert(v, depth + 1) for k, v in value.items()}
        if items and all(i in items for i in range(1, len(items) + 1)):
            return [items[i] for i in range(1, len(items) + 1)]
        return items

    return convert(value, 0)


def to_lua(value: object, new_table: Callable[[], Any]) -> Any:
    """`value` as what lupa hands over by value: text as bytes, lists and dicts as tables.

    Anything else (a date of TOML) becomes its text, so no Python object gets
    through; a whole number beyond 64 bits becomes a float.  Raises ValueError
    for what is nested too deeply or too large.
    """
    left = functions.MAX_ITEMS

    def convert(value: object, depth: int) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError(f"the result has more than {functions.MAX_ITEMS:,} values")
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int):
            return value if -(1 << 63) <= value < 1 << 63 else float(value)
        if isinstance(value, bytes):
            return bytes(value)
        if isinstance(value, Mapping):
            pairs: Iterable[tuple[object, object]] = value.items()
        elif isinstance(value, list | tuple):
            pairs = enumerate(value, start=1)
        else:
            return str(value).encode("utf-8", "surrogateescape")
        if depth >= MAX_DEPTH:
            raise ValueError(f"the result is nested more than {MAX_DEPTH} deep")
        table = new_table()
        for key, item in pairs:
            if key is not None and item is not None:
                table[convert(key, depth + 1)] = convert(item, depth + 1)
        return table

    return convert(value, 0)


class Host:
    """What a policy says while it runs."""

    def __init__(self, *, env: Mapping[str, str], command_seconds: float) -> None:
        self.env = env
        self.command_seconds = command_seconds
        self.upstream: dict[str, Said] = {}
        self.own: dict[str, Said] = {}
        self.loads: list[dict[str, Said]] = []
        self.dns = DnsSettings()
        self.tsa_db_path: str | None = None
        self.messages: list[LogLine] = []
        self.warnings: dict[Problem, None] = {}
        self.files: dict[str, None] = {}
        self.output: IO[bytes] | None = None
        """What the last command of ``io.popen`` wrote, kept until Lua has opened it."""
        self.operations = self._operations()

    def said(self) -> Answer:
        """All that the policy said."""
        return Answer(
            values=self.upstream | self.own,
            dns=self.dns,
            tsa_db_path=self.tsa_db_path,
            messages=tuple(self.messages),
            warnings=tuple(self.warnings),
            files=tuple(self.files),
        )

    def answer(self, operation: str, args: list[Any]) -> object:
        """The plain result; raises ValueError or OSError with the reason."""
        return self.operations[operation](*args)

    def _operations(self) -> dict[str, Callable[..., object]]:
        own: dict[str, Callable[..., object]] = {
            "warn": self._warn,
            "log": self._log,
            "file": self._file,
            "unsupported": self._unsupported,
            "unknown_event": self._unknown_event,
            "shaping": self._shaping,
            "use_shaping": self._use_shaping,
            "memoize": self._memoize,
            "execute": self._execute,
            "popen": self._popen,
            "glob": functions.glob,
            "read_dir": functions.read_dir,
            "start_http_listener": self._start_http_listener,
            "configure_tsa_db_path": self._configure_tsa_db_path,
            "configure": self._configure,
            "load_resolv_conf": dns.load_resolv_conf,
        }
        own |= {name: self._serde(name) for name in functions.SERDE}
        own |= {f"string_{name}": do for name, do in functions.STRINGS.items()}
        return own | self.dns_operations()

    def dns_operations(self) -> dict[str, Callable[..., object]]:
        """The settings of ``kumo.dns`` that mean something here."""
        return {
            "configure_resolver": self._resolver("configure_resolver", dns.read_resolver),
            "configure_unbound_resolver": self._resolver(
                "configure_unbound_resolver", dns.read_servers
            ),
            "configure_test_resolver": self._resolver("configure_test_resolver", dns.read_zones),
            "set_mx_timeout": self._set_mx_timeout,
            "set_mx_concurrency_limit": self._set_mx_concurrency_limit,
            "set_mx_negative_cache_ttl": self._set_mx_negative_cache_ttl,
            "set_mta_sts_enabled": self._set_mta_sts_enabled,
        }

    def _warn(self, file: str, line: int | None, code: str, text: str) -> None:
        if len(self.warnings) < MAX_MESSAGES:
            self.warnings.setdefault(Problem("warning", code, shown(text), file=file, line=line))

    def _log(self, file: str, line: int | None, level: str, text: str) -> None:
        if len(self.messages) < MAX_MESSAGES:
            self.messages.append(LogLine(level, shown(text), file, line))

    def _file(self, name: str) -> None:
        self.files.setdefault(name)

    def _execute(self, command: object) -> dict[str, object]:
        code = functions.run_command(command, env=self.env, seconds=self.command_seconds)
        return {"kind": "signal" if code < 0 else "exit", "code": abs(code)}

    def _popen(self, command: object) -> str:
        # The file has no name, so it is gone when this process ends in whatever way.
        self.output = tempfile.TemporaryFile(prefix="tsa-sidecar-")  # noqa: SIM115
        functions.run_command(
            command, env=self.env, seconds=self.command_seconds, output=self.output
        )
        return f"/proc/self/fd/{self.output.fileno()}"

    def _unsupported(self, file: str, line: int | None, name: str) -> None:
        text = f"{name} does nothing in the sidecar and returned nil"
        self._warn(file, line, "unsupported-call", text)

    def _unknown_event(self, file: str, line: int | None, name: str) -> None:
        if "/policy-extras/" in file:
            return  # KumoMTA's own modules serve kumod, too, and are not the operator's to mend
        hint = did_you_mean(name, EVENTS)
        text = f"the event {name} never happens in the sidecar{hint}"
        self._warn(file, line, "unsupported-event", text)

    def _shaping(
        self, file: str, line: int | None, paths: object = None, options: object = None
    ) -> int:
        if not isinstance(paths, list | dict):
            raise ValueError("kumo.shaping.load takes a list of files and a table of options")
        said = {"shaping": self._said("shaping", paths, file, line, "kumo.shaping.load")}
        if options is not None:
            name = "kumo.shaping.load"
            said["merge_options"] = self._said("merge_options", options, file, line, name)
        self.loads.append(said)
        return len(self.loads) - 1

    def _use_shaping(self, number: int, ttl_ns: int | None = None) -> None:
        said = self.loads[number]
        self.upstream |= said
        if ttl_ns is not None:
            self.upstream["ttl"] = replace(said["shaping"], value=f"{ttl_ns}ns")

    def _memoize(self, params: object = None) -> int:
        given = _table(params, "kumo.memoize", _MEMOIZE)
        for name in ("name", "ttl", "capacity"):
            if name not in given:
                raise ValueError(f"kumo.memoize: {name} is missing")
        try:
            return parse_duration(given["ttl"])
        except ValueError as error:
            raise ValueError(f"kumo.memoize: ttl: {error}") from None

    def _start_http_listener(self, file: str, line: int | None, params: object = None) -> None:
        call = "tsa.start_http_listener"
        given = _table(params, call, _LISTENER)
        listen = given.get("listen", _UPSTREAM_LISTEN)
        if given.get("use_tls"):
            text = f"{call}: {listen} is left out: the sidecar speaks no TLS; use a proxy for it"
            self._warn(file, line, "unsupported-listener", text)
            return
        if "listen" in self.upstream:
            first = self.upstream["listen"]
            text = f"{call}: {listen} is left out: the sidecar has one listener, {first.value}"
            self._warn(file, line, "unsupported-listener", text)
            return
        self.upstream["listen"] = self._said("listen", listen, file, line, call)
        if "trusted_hosts" in given:
            hosts = given["trusted_hosts"]
            self.upstream["trusted_hosts"] = self._said("trusted_hosts", hosts, file, line, call)
        for name in ("hostname", "request_body_limit", "tls_certificate", "tls_private_key"):
            if name in given:
                text = f"{call}: {name} does nothing in the sidecar"
                self._warn(file, line, "unsupported-option", text)

    def _configure_tsa_db_path(self, file: str, line: int | None, path: object = None) -> None:
        if not isinstance(path, str):
            raise ValueError("tsa.configure_tsa_db_path takes a file name")
        self.tsa_db_path = path
        text = (
            f"tsa.configure_tsa_db_path: the sidecar keeps its own state; `tsa-sidecar state "
            f"import {path}` takes over what kumo-tsa-daemon left there"
        )
        self._warn(file, line, "unsupported-call", text)

    def _configure(self, file: str, line: int | None, params: object = None) -> None:
        call = "sidecar.configure"
        for name, value in _table(params, call, policy_keys()).items():
            self.own[name] = self._said(name, value, file, line, call)

    def _said(self, name: str, value: object, file: str, line: int | None, call: str) -> Said:
        try:
            setting(name).check(value)
        except ValueError as error:
            # This argument of the call means the setting, but has another name.
            what = call if call == "kumo.shaping.load" else f"{call}: {name}"
            raise ValueError(f"{what}: {error}") from None
        return Said(value, file, line)

    def _resolver(
        self, call: str, read: Callable[[object], dns.Found]
    ) -> Callable[[str, int | None, object], None]:
        def run(file: str, line: int | None, config: object = None) -> None:
            try:
                found, ignored = read(config)
            except ValueError as error:
                raise ValueError(f"kumo.dns.{call}: {error}") from None
            for name in ignored:
                text = f"kumo.dns.{call}: {name} does nothing in the sidecar"
                self._warn(file, line, "unsupported-option", text)
            if found.nameservers:
                self.upstream["nameservers"] = Said(found.nameservers, file, line)
            else:
                self.upstream.pop("nameservers", None)
            self.dns = replace(
                found,
                mx_timeout_ns=self.dns.mx_timeout_ns,
                mx_concurrency=self.dns.mx_concurrency,
                mx_negative_ttl_ns=self.dns.mx_negative_ttl_ns,
                mta_sts=self.dns.mta_sts,
            )

        return run

    def _set_mx_timeout(self, _file: str, _line: int | None, value: object = None) -> None:
        self.dns = replace(self.dns, mx_timeout_ns=parse_duration(value))

    def _set_mx_concurrency_limit(
        self, _file: str, _line: int | None, value: object = None
    ) -> None:
        limit = dns.whole_number(value, "kumo.dns.set_mx_concurrency_limit")
        self.dns = replace(self.dns, mx_concurrency=limit)

    def _set_mx_negative_cache_ttl(
        self, _file: str, _line: int | None, value: object = None
    ) -> None:
        self.dns = replace(self.dns, mx_negative_ttl_ns=parse_duration(value))

    def _set_mta_sts_enabled(self, _file: str, _line: int | None, value: object = None) -> None:
        if not isinstance(value, bool):
            raise ValueError("kumo.dns.set_mta_sts_enabled takes true or false")
        self.dns = replace(self.dns, mta_sts=value)

    def _serde(self, name: str) -> Callable[..., object]:
        do = functions.SERDE[name]

        def run(value: object = None) -> object:
            if name.endswith("_load") and isinstance(value, str):
                self._file(value)
            try:
                return do(value)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None

        return run


def shown(text: str) -> str:
    """The beginning of `text`, with bytes that are not UTF-8 written as ``\\xff``."""
    if len(text) > MAX_MESSAGE:
        text = text[:MAX_MESSAGE] + " …"
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _table(value: object, call: str, known: tuple[str, ...]) -> Mapping[str, object]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{call} takes a table")
    for name in value:
        if name not in known:
            raise ValueError(f'{call}: "{name}" is not known{did_you_mean(str(name), known)}')
    return value
