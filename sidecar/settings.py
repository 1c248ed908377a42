"""Settings: one table of what can be set, and where each value came from.

In: the command line's options, the environment, and what the policy file said
(:mod:`sidecar.policy`).  Out: one frozen :class:`Settings`.  An option wins
over a variable, a variable over the policy, the policy over the default.

Every setting has one row in :data:`SETTINGS`; its option, its variable
``TSA_SIDECAR_*``, its key in ``sidecar.configure`` and its paragraph in the
packaged environment file all come from that row.

Lists in variables are written as a shell would: separated by blanks, with
quotes around a name that holds one (a colon would cut URLs and IPv6 addresses
apart).  Lists whose items hold no comma may be separated by commas, too.
"""

from __future__ import annotations

import difflib
import errno
import ipaddress
import os
import re
import shlex
import stat
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from sidecar.log.record import SKIPPED_TYPES
from sidecar.problems import Problem, ProblemError
from sidecar.shaping.specs import parse_duration
from sidecar.times import NS

if TYPE_CHECKING:
    from sidecar.policy import Policy

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Start = Literal["recent", "end", "beginning"]
LogFormat = Literal["text", "json"]

PREFIX = "TSA_SIDECAR_"
"""How the name of every variable begins."""

DEFAULT_POLICY = Path("/opt/kumomta/etc/policy/tsa_init.lua")
"""Where KumoMTA's packages keep the policy; used when it is there and none is named."""

LOOPBACK: tuple[Network, ...] = (
    ipaddress.ip_network("127.0.0.1/32"),
    ipaddress.ip_network("::1/128"),
)
"""The hosts trusted unless others are named (as in upstream's ``start_http_listener``)."""

RECORD_TYPES = frozenset(
    {
        "AdminBounce",
        "Bounce",
        "Delivery",
        "Expiration",
        "Feedback",
        "OOB",
        "TransientFailure",
    }
    | SKIPPED_TYPES
)
"""The record types of KumoMTA's documentation, to tell a slip of the pen from a new type."""

MERGE_LEVELS = ("Ignore", "Warn", "Error")
MERGE_OPTIONS = (
    "aliased_site",
    "dns_fail",
    "http_timeout",
    "local_load",
    "null_mx",
    "provider_overlap",
    "remote_load",
    "skip_remote",
)
"""The options of ``kumo.shaping.load`` (docs: reference/kumo.shaping/load)."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: an IP address (without brackets) or host name, and a port from 0 to 65535.

    Port 0 is any free port.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True when only this machine can connect."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host.lower() == "localhost"


@dataclass(frozen=True, slots=True)
class Retention:
    """When finished, processed segments may go: by age in ns or by total size in bytes."""

    age_ns: int | None = None
    size_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """What the policy said through ``kumo.dns``; None and () where it said nothing.

    ``nameservers`` (the settled ones in :class:`Settings`) are ``IP:PORT``;
    ``zones`` are texts of master files;
    ``system``: the system's name servers are asked for what no zone answers.
    Zones with neither name servers nor ``system`` answer alone: a name in
    none of them does not exist.
    """

    nameservers: tuple[str, ...] = ()
    zones: tuple[str, ...] = ()
    system: bool = False
    timeout_ns: int | None = None
    attempts: int | None = None
    mx_timeout_ns: int | None = None
    mx_concurrency: int | None = None
    mx_negative_ttl_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from; ``text`` is for people (``--state``, ``tsa_init.lua:12``)."""

    kind: Literal["option", "variable", "policy", "default"]
    text: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set, checked, with the origin of each value by setting name."""

    policy: Path | None
    shaping: tuple[str, ...]
    merge_options: Mapping[str, str | bool | int]
    ttl_ns: int
    dns_zones: tuple[Path, ...]
    log_dir: Path
    pattern: str
    start: Start
    skip_record_types: frozenset[str]
    overlay: Path
    state: Path
    listen: Address | None
    trusted_hosts: tuple[Network, ...]
    kumod_api: str | None
    retention: Retention | None
    poll_seconds: float
    log_format: LogFormat
    dns: DnsSettings = field(default_factory=DnsSettings)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    warnings: tuple[Problem, ...] = ()


# Parsers: a plain value in (text, number, list, table), the checked one out,
# or ValueError with a reason that fits behind "NAME: ".


def nearest(name: str, known: Iterable[str], *, likeness: float = 0.6) -> str | None:
    """The known name that `name` was probably meant to be, or None."""
    by_fold = {k.casefold(): k for k in known}
    near = difflib.get_close_matches(name.casefold(), by_fold, n=1, cutoff=likeness)
    return by_fold[near[0]] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean "x"?`` or nothing."""
    near = nearest(name, known)
    return "" if near is None else f'; did you mean "{near}"?'


def _text(value: object) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {_kind(value)}")
    if not value:
        raise ValueError("must not be empty")
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    return value


def _kind(value: object) -> str:
    names: dict[type, str] = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        dict: "a table",
        list: "a list",
        tuple: "a list",
        type(None): "nil",
    }
    return names.get(type(value), "a value of another kind")


class _Split(str):
    """The text of a variable that holds a list."""

    __slots__ = ()

    def items(self) -> list[str]:
        """Its items, separated and quoted as in a shell; ValueError when a quote stays open."""
        try:
            return shlex.split(self)
        except ValueError as error:
            raise ValueError(f"{str(self)!r} is no list: {error}") from None


def _items(value: object, *, commas: bool = False) -> list[object]:
    """The items of a list; one text stands for a list of one, an empty table or text for none."""
    if isinstance(value, _Split):
        value = value.items()
    if isinstance(value, Mapping):
        if value:
            raise ValueError("must be a list, not a table with names")
        return []
    if isinstance(value, str | os.PathLike):
        value = [value]
    if not isinstance(value, Sequence | frozenset | set):
        raise ValueError(f"must be a list, not {_kind(value)}")
    items: list[object] = []
    for item in value:
        if commas and isinstance(item, str):
            items.extend(part.strip() for part in item.split(","))
        else:
            items.append(item)
    return [item for item in items if item != ""]


def _texts(value: object) -> tuple[str, ...]:
    return tuple(_text(item) for item in _items(value))


def _path(value: object) -> Path:
    return Path(_text(value))


def _paths(value: object) -> tuple[Path, ...]:
    return tuple(Path(text) for text in _texts(value))


def _is_off(value: object) -> bool:
    return value is False or (isinstance(value, str) and value.lower() in ("none", "off"))


def parse_port(text: str) -> int:
    """A TCP port from 0 (any free one) to 65535."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError(f'"{text}" is not a port: give a number from 0 to 65535')
    return int(text)


def parse_address(value: object) -> Address:
    """``HOST:PORT``, ``[IPv6]:PORT``, or ``:PORT`` for every IPv4 interface."""
    text = _text(value)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not rest.startswith(":"):
            raise ValueError(f'"{text}" is not [IPv6]:PORT, such as [::1]:8008')
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f'"{host}" is not an IPv6 address') from None
        return Address(host, parse_port(rest[1:]))
    host, colon, port = text.rpartition(":")
    if not colon:
        raise ValueError(f'"{text}" is not HOST:PORT, such as 127.0.0.1:8008')
    if ":" in host:
        raise ValueError(f'"{text}": put an IPv6 address in brackets, such as [::1]:8008')
    return Address(_host(host) if host else "0.0.0.0", parse_port(port))  # noqa: S104 - it was said


def _host(host: str) -> str:
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        pass
    if re.fullmatch(r"[0-9.]+", host) or not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*)", host):
        raise ValueError(f'"{host}" is neither an IP address nor a host name')
    return host


def _listen(value: object) -> Address | None:
    return None if _is_off(value) else parse_address(value)


def parse_network(value: object) -> Network:
    """An IP address or a CIDR block; host bits that are set are refused, as upstream does."""
    text = _text(value)
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f'"{text}" is neither an IP address nor a CIDR block such as 10.0.0.0/8'
        ) from None
    host = text.split("/")[0]
    raise ValueError(
        f'"{text}" has bits set behind its prefix; did you mean "{loose}" or "{host}"?'
    )


def _networks(value: object) -> tuple[Network, ...]:
    return tuple(parse_network(item) for item in _items(value, commas=True))


def parse_nameserver(value: object) -> str:
    """``IP`` or ``IP:PORT`` (``[IPv6]:PORT``) as ``IP:PORT``; the port is 53 unless given."""
    text = _text(value)
    try:
        bare: object = ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
        return str(Address(str(bare), 53))
    except ValueError:
        address = parse_address(text)
    try:
        ipaddress.ip_address(address.host)
    except ValueError:
        raise ValueError(f'"{text}": a name server is given by its IP address') from None
    return str(address)


def _nameservers(value: object) -> tuple[str, ...]:
    return tuple(parse_nameserver(item) for item in _items(value, commas=True))


def _one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = _text(value)
        if text not in choices:
            raise ValueError(
                f'"{text}" is not one of {", ".join(choices)}{did_you_mean(text, choices)}'
            )
        return text

    return parse


def _record_types(value: object) -> frozenset[str]:
    names = [_text(item) for item in _items(value, commas=True)]
    for name in names:
        # A type that only a newer kumod writes is let through; a misspelt one
        # would silently skip nothing.
        if name not in RECORD_TYPES and nearest(name, RECORD_TYPES, likeness=0.75) is not None:
            raise ValueError(f'"{name}" is not a record type{did_you_mean(name, RECORD_TYPES)}')
    return frozenset(names)


def _pattern(value: object) -> str:
    text = _text(value)
    if "/" in text:
        raise ValueError(f'"{text}" must match names of files, without a directory in front')
    return text


def _url(value: object) -> str | None:
    if _is_off(value):
        return None
    text = _text(value)
    example = "such as http://127.0.0.1:8000"
    try:
        parts = urlsplit(text)
        parts.port  # noqa: B018 - raises ValueError when it is no port
    except ValueError as error:
        raise ValueError(f'"{text}" is not a URL {example}: {error}') from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f'"{text}" is not an http(s) URL {example}')
    if not re.fullmatch(r"[!-~]+", text):
        raise ValueError(
            f'"{text}": what is not ASCII is written percent-encoded (%20), hosts as xn--'
        )
    if parts.query or parts.fragment:
        raise ValueError(f'"{text}" must end before the "?" or "#"; give it {example}')
    return text.rstrip("/")


def _duration(value: object) -> int:
    ns = parse_duration(value)
    if ns <= 0:
        raise ValueError("must be longer than nothing")
    return ns


def _poll(value: object) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = parse_duration(value) / NS
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f'must be a number of seconds or a duration such as "2s", not {value!r}')
    if not 0.01 <= value <= 3600:  # nor is NaN
        raise ValueError(f"{value!r} seconds: must be from 0.01 to 3600 seconds")
    return float(value)


_UNITS = {"": 1} | {
    f"{letter}{binary}": (1024 if binary else 1000) ** power
    for power, letter in enumerate("kmgt", start=1)
    for binary in ("", "i")
}


def parse_retention(value: object) -> Retention | None:
    """An age (``7 days``) or a size (``500 MB``, ``2GiB``: the final B tells them apart)."""
    if _is_off(value):
        return None
    text = _text(value).strip()
    size = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?i?)b", text, re.IGNORECASE | re.ASCII)
    if size is not None and size[2].lower() in _UNITS:
        count = int(Fraction(size[1]) * _UNITS[size[2].lower()])
        if count <= 0:
            raise ValueError("must be more than nothing")
        return Retention(size_bytes=count)
    if re.fullmatch(r"[0-9.]+", text):
        raise ValueError(f'"{text}" has no unit: write an age like "7 days" or a size like "2 GB"')
    try:
        return Retention(age_ns=_duration(text))
    except ValueError as error:
        raise ValueError(f'"{text}" is neither an age nor a size like "2 GB": {error}') from None


def _merge_options(value: object) -> Mapping[str, str | bool | int]:
    """A table, or a list of ``NAME=VALUE``; ``http_timeout`` comes out in nanoseconds."""
    given: dict[str, object] = {}
    if isinstance(value, Mapping):
        given.update(value)
    else:
        for item in _items(value, commas=True):
            name, equals, text = _text(item).partition("=")
            if not equals:
                raise ValueError(f'"{item}" is not NAME=VALUE, such as dns_fail=Warn')
            given[name.strip()] = text.strip()
    return MappingProxyType({str(n): _merge_option(str(n), v) for n, v in given.items()})


def _merge_option(name: str, value: object) -> str | bool | int:
    if name not in MERGE_OPTIONS:
        raise ValueError(
            f'"{name}" is not a merge option{did_you_mean(name, MERGE_OPTIONS)}'
            f" (there are {', '.join(MERGE_OPTIONS)})"
        )
    try:
        if name == "http_timeout":
            return _duration(value)
        if name == "skip_remote":
            if isinstance(value, bool):
                return value
            return _one_of("true", "false")(value) == "true"
        return _one_of(*MERGE_LEVELS)(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    ``name`` is also its key in ``sidecar.configure`` and, in capitals behind
    ``TSA_SIDECAR_``, its variable; ``parse`` turns a plain value into the
    checked one or raises ValueError; ``default`` is such a plain value;
    ``example`` is what the environment file shows.
    """

    name: str
    option: str
    parse: Callable[[object], Any]
    default: object
    help: str
    metavar: str
    example: str
    is_list: bool = False
    empty_is_value: bool = False
    in_policy: bool = True

    def check(self, value: object) -> Any:
        """The checked value; ValueError with a reason of one printable line."""
        try:
            return self.parse(value)
        except ValueError as error:
            reason = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(error))
            raise ValueError(reason) from None

    @property
    def variable(self) -> str:
        """The name of its environment variable."""
        return PREFIX + self.name.upper()

    @property
    def variables(self) -> tuple[str, ...]:
        """Its variable, and the spelling that follows the option (``_TRUSTED_HOST``)."""
        guess = PREFIX + self.option.removeprefix("--").replace("-", "_").upper()
        return (self.variable,) if guess == self.variable else (self.variable, guess)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "policy",
        "--policy",
        _path,
        None,
        "The policy file, KumoMTA's tsa_init.lua, read as it is. What it sets, options and "
        f"variables override. Unless given, {DEFAULT_POLICY} if it is there.",
        "FILE",
        str(DEFAULT_POLICY),
        in_policy=False,
    ),
    Setting(
        "shaping",
        "--shaping",
        _texts,
        (),
        "The shaping files with the rules, in merge order; files or http(s) URLs, instead of "
        "those that the policy loads.",
        "FILE|URL",
        "/opt/kumomta/share/policy-extras/shaping.toml /opt/kumomta/etc/policy/shaping.toml",
        is_list=True,
    ),
    Setting(
        "merge_options",
        "--merge-option",
        _merge_options,
        (),
        "Options of kumo.shaping.load as NAME=VALUE: aliased_site, dns_fail, local_load, null_mx, "
        "provider_overlap and remote_load take Ignore, Warn or Error; skip_remote takes true or "
        "false; http_timeout takes a duration without blanks.",
        "NAME=VALUE",
        "dns_fail=Warn http_timeout=10s",
        is_list=True,
    ),
    Setting(
        "ttl",
        "--ttl",
        _duration,
        "5 minutes",
        "How long shaping data read from URLs is kept before it is read again. (Files are "
        "read again when they change.)",
        "DURATION",
        "5 minutes",
    ),
    Setting(
        "dns_zones",
        "--dns-zone",
        _paths,
        (),
        "Master files to answer DNS from, and from nothing else: names in none of them do not "
        "exist. For tests.",
        "FILE",
        "/etc/tsa-sidecar/example.zone",
        is_list=True,
    ),
    Setting(
        "nameservers",
        "--nameserver",
        _nameservers,
        (),
        "Name servers to ask instead of the system's, as IP or IP:PORT.",
        "IP[:PORT]",
        "127.0.0.1 [::1]:5353",
        is_list=True,
    ),
    Setting(
        "log_dir",
        "--log-dir",
        _path,
        "/var/log/kumomta",
        "kumod's log directory, the log_dir of kumo.configure_local_logs.",
        "DIR",
        "/var/log/kumomta",
    ),
    Setting(
        "pattern",
        "--pattern",
        _pattern,
        "*",
        "Which files of the log directory are segments, as a glob on their names. Names that "
        "begin with a dot never are.",
        "GLOB",
        "*",
    ),
    Setting(
        "from",
        "--from",
        _one_of("recent", "end", "beginning"),
        "recent",
        "Where to begin without a saved position: recent (far enough back for everything that "
        "could still be in force), end, or beginning.",
        "recent|end|beginning",
        "recent",
    ),
    Setting(
        "skip_record_types",
        "--skip-record-type",
        _record_types,
        SKIPPED_TYPES,
        "Record types that no rule sees, instead of KumoMTA's own choice; empty: none is skipped.",
        "TYPE",
        ",".join(sorted(SKIPPED_TYPES)),
        is_list=True,
        empty_is_value=True,
    ),
    Setting(
        "additional_skip_record_types",
        "--additional-skip-record-type",
        _record_types,
        (),
        "Record types that no rule sees, on top of skip_record_types.",
        "TYPE",
        "Feedback,OOB",
        is_list=True,
    ),
    Setting(
        "overlay",
        "--overlay",
        _path,
        "/opt/kumomta/etc/tsa-sidecar/shaping.toml",
        "The overlay file that kumod reads through extra_files.",
        "FILE",
        "/opt/kumomta/etc/tsa-sidecar/shaping.toml",
    ),
    Setting(
        "state",
        "--state",
        _path,
        "/var/lib/tsa-sidecar/state.db",
        "The SQLite file that keeps log positions, thresholds and entries in force.",
        "FILE",
        "/var/lib/tsa-sidecar/state.db",
    ),
    Setting(
        "listen",
        "--listen",
        _listen,
        "127.0.0.1:8008",
        "Where kumod's subscribe finds the overlay by HTTP: HOST:PORT, [IPv6]:PORT, :PORT for "
        "every IPv4 interface, or none for no listener.",
        "HOST:PORT",
        "127.0.0.1:8008",
    ),
    Setting(
        "trusted_hosts",
        "--trusted-host",
        _networks,
        ("127.0.0.1", "::1"),
        "Who may connect, as addresses and CIDR blocks. Needed when listening on an address "
        "that others can reach.",
        "CIDR",
        "127.0.0.1 ::1 10.0.0.0/8",
        is_list=True,
    ),
    Setting(
        "kumod_api",
        "--kumod-api",
        _url,
        False,
        "The URL of kumod's own HTTP listener; given, changes are pushed to its admin API at once.",
        "URL",
        "http://127.0.0.1:8000",
    ),
    Setting(
        "retention",
        "--retention",
        parse_retention,
        False,
        "Delete finished segments that are wholly processed: older than an age (7 days), or "
        "beyond a total size (2 GB). Off unless given; only for a log that nobody else needs.",
        "AGE|SIZE",
        "7 days",
    ),
    Setting(
        "poll",
        "--poll",
        _poll,
        "1s",
        "How often the log directory is looked at where the file system sends no events.",
        "SECONDS",
        "1s",
    ),
    Setting(
        "log_format",
        "--log-format",
        _one_of("text", "json"),
        "text",
        "How the sidecar writes its own log lines: text or json.",
        "text|json",
        "text",
    ),
)
"""Every setting, in the order in which the environment file shows them."""


def setting(name: str) -> Setting:
    """The row called `name`; KeyError when there is none."""
    for row in SETTINGS:
        if row.name == name:
            return row
    raise KeyError(name)


def policy_keys() -> tuple[str, ...]:
    """The keys that ``sidecar.configure`` takes."""
    return tuple(row.name for row in SETTINGS if row.in_policy)


def policy_path(
    options: Mapping[str, object], env: Mapping[str, str], *, default: Path = DEFAULT_POLICY
) -> Path | None:
    """The policy file to load: as named by option or variable, else `default` if it is there.

    Also a `default` that can't be looked for: whoever loads it hears why, rather
    than that nothing is set.  ProblemError where what was named is no file's name.
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

    `options` maps setting names to what the command line gave; None and ()
    mean not given, False for ``listen`` is ``--no-listen``.  `require` names
    the settings whose absence is said: no shaping files is an error, a log
    directory that is not there yet a warning, a missing directory of the
    overlay or the state an error.

    Raises ProblemError with everything that is wrong.
    """
    values: dict[str, Any] = {}
    origins: dict[str, Origin] = {"policy": _policy_origin(options, env)}
    errors: list[Problem] = []
    for row in SETTINGS[1:]:
        raw, origin = _choose(row, options, env, policy)
        origins[row.name] = origin
        try:
            # What the policy gave was checked where its line is known.
            values[row.name] = raw if origin.kind == "policy" else row.check(raw)
        except ValueError as error:
            errors.append(Problem("error", "bad-setting", str(error), where=origin.text))
            values[row.name] = row.parse(row.default)
    settings = _settings(values, origins, policy)
    found = [p for name in require for p in _missing(name, settings)]
    found += _listener_problems(settings) + _unknown_variables(env)
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
            return _Split(text) if row.is_list else text, Origin("variable", variable)
    if policy is not None and row.name in policy.values:
        said = policy.values[row.name]
        return said.value, Origin("policy", said.position)
    return row.default, Origin("default", "default")


def _policy_origin(options: Mapping[str, object], env: Mapping[str, str]) -> Origin:
    return _choose(SETTINGS[0], options, env, None)[1]


def _settings(
    values: Mapping[str, Any], origins: Mapping[str, Origin], policy: Policy | None
) -> Settings:
    return Settings(
        policy=None if policy is None else policy.path,
        shaping=values["shaping"],
        merge_options=values["merge_options"],
        ttl_ns=values["ttl"],
        dns_zones=values["dns_zones"],
        log_dir=values["log_dir"],
        pattern=values["pattern"],
        start=values["from"],
        skip_record_types=values["skip_record_types"] | values["additional_skip_record_types"],
        overlay=values["overlay"],
        state=values["state"],
        listen=values["listen"],
        trusted_hosts=values["trusted_hosts"],
        kumod_api=values["kumod_api"],
        retention=values["retention"],
        poll_seconds=values["poll"],
        log_format=values["log_format"],
        dns=replace(
            DnsSettings() if policy is None else policy.dns, nameservers=values["nameservers"]
        ),
        origins=MappingProxyType(dict(origins)),
    )


def _missing(name: str, settings: Settings) -> list[Problem]:
    row = setting(name)
    by = f"{row.option} or {row.variable}"
    if name == "shaping" and not settings.shaping:
        hint = (
            f"give with --policy a tsa_init.lua that loads them ({DEFAULT_POLICY} is not there)"
            if settings.policy is None
            else f"let {settings.policy} load them in tsa_load_shaping_data"
        )
        return [Problem("error", "no-shaping", f"no shaping files: name them with {by}, or {hint}")]
    if name == "log_dir" and (reason := _no_directory(settings.log_dir)) is not None:
        message = (
            f"log directory {settings.log_dir} can't be read (yet): {reason}; {by} names another"
        )
        return [Problem("warning", "no-log-dir", message)]
    if name in ("overlay", "state"):
        path: Path = getattr(settings, name)
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
        # is_dir() would raise for a directory behind one that is closed to us.
        is_directory = stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        return error.strerror or str(error)
    return None if is_directory else os.strerror(errno.ENOTDIR)


def _listener_problems(settings: Settings) -> list[Problem]:
    listen = settings.listen
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


def _unknown_variables(env: Mapping[str, str]) -> list[Problem]:
    known = {name for row in SETTINGS for name in row.variables}
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


def environment_file() -> str:
    """The packaged environment file (systemd's EnvironmentFile): every setting, commented out."""
    lines = [
        "# Settings of tsa-sidecar. A command line option wins over a variable here, a variable",
        "# over the policy, the policy over the default. Lists are separated by blanks; put an",
        "# item that holds a blank into quotes inside the quotes: \"one 'two three'\".",
    ]
    for row in SETTINGS:
        text = f"{row.option}: {row.help}"
        lines += ["", *textwrap.wrap(text, 96, initial_indent="# ", subsequent_indent="# ")]
        value = f'"{row.example}"' if " " in row.example or "*" in row.example else row.example
        lines.append(f"#{row.variable}={value}")
    return "\n".join(lines) + "\n"
