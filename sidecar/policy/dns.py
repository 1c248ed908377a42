"""What ``kumo.dns.configure_resolver`` and its kin say, as :class:`DnsSettings`.

In: the plain value of the call's table.  Out: the settings, and the names of
what the sidecar's resolver has no use for.  Shapes as in KumoMTA's
documentation (reference/kumo.dns/configure_resolver, define_resolver).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sidecar.settings import DnsSettings, did_you_mean, parse_nameserver
from sidecar.shaping.specs import parse_duration

_PLAIN = ("domain", "name_servers", "options", "search")
_FORMS = ("Aggregate", "Hickory", "HickorySystemConfig", "Test", "Unbound")
_SERVER = ("bind_addr", "protocol", "socket_addr", "trust_negative_responses")

Found = tuple[DnsSettings, tuple[str, ...]]


def read_resolver(config: object) -> Found:
    """The argument of ``configure_resolver``; ValueError when it has no known shape."""
    if config == "HickorySystemConfig":
        return DnsSettings(system=True), ()
    if not isinstance(config, Mapping):
        raise ValueError("must be a table such as { name_servers = { '127.0.0.1:53' } }")
    if len(config) == 1:
        (form, inner), *_ = config.items()
        if form in ("Hickory", "Unbound"):
            return read_servers(inner)
        if form == "Test":
            return read_zones(inner)
        if form == "Aggregate":
            return _aggregate(inner)
        if form == "HickorySystemConfig":
            return DnsSettings(system=True), ()
    return read_servers(config)


def read_servers(config: object) -> Found:
    """A table with ``name_servers``, ``options``, ``domain`` and ``search``."""
    if not isinstance(config, Mapping):
        raise ValueError("must be a table with name_servers")
    for name in config:
        if name not in _PLAIN:
            raise ValueError(f'"{name}" is not known{did_you_mean(str(name), (*_PLAIN, *_FORMS))}')
    ignored = [name for name in ("domain", "search") if config.get(name)]
    servers = []
    for item in _list(config.get("name_servers"), "name_servers"):
        server, unused = _server(item)
        servers.append(server)
        ignored += [name for name in unused if name not in ignored]
    options = config.get("options") or {}
    if not isinstance(options, Mapping):
        raise ValueError("options must be a table")
    settings = DnsSettings(nameservers=tuple(servers), system=not servers)
    for name, value in options.items():
        if name == "timeout":
            settings = replace(settings, timeout_ns=parse_duration(value))
        elif name == "attempts":
            settings = replace(settings, attempts=whole_number(value, "options.attempts"))
        else:
            ignored.append(f"options.{name}")
    return settings, tuple(ignored)


def _server(item: object) -> tuple[str, list[str]]:
    if isinstance(item, str):
        return parse_nameserver(item), []
    if not isinstance(item, Mapping) or "socket_addr" not in item:
        raise ValueError("each of name_servers must be 'IP:PORT' or a table with socket_addr")
    for name in item:
        if name not in _SERVER:
            raise ValueError(
                f'name_servers: "{name}" is not known{did_you_mean(str(name), _SERVER)}'
            )
    return parse_nameserver(item["socket_addr"]), [n for n in item if n != "socket_addr"]


def read_zones(config: object) -> Found:
    """A list of zone texts, or a table with ``zones`` and ``servfail``."""
    ignored: tuple[str, ...] = ()
    if isinstance(config, Mapping):
        ignored = ("servfail",) if config.get("servfail") else ()
        config = config.get("zones")
    zones = []
    for item in _list(config, "zones"):
        text = item.get("zone") if isinstance(item, Mapping) else item
        if not isinstance(text, str):
            raise ValueError("each of zones must be the text of a master file")
        zones.append(text)
    return DnsSettings(zones=tuple(zones)), ignored


def _aggregate(config: object) -> Found:
    if isinstance(config, Mapping):  # list and names mixed, as one of the examples has it
        parts = [v if isinstance(k, int) else {k: v} for k, v in config.items()]
    else:
        parts = list(_list(config, "Aggregate"))
    total = DnsSettings()
    ignored: list[str] = []
    for part in parts:
        found, unused = read_resolver(part)
        ignored += unused
        total = DnsSettings(
            nameservers=total.nameservers + found.nameservers,
            zones=total.zones + found.zones,
            system=total.system or found.system,
            timeout_ns=found.timeout_ns if total.timeout_ns is None else total.timeout_ns,
            attempts=found.attempts if total.attempts is None else total.attempts,
        )
    return total, tuple(ignored)


def _list(value: object, name: str) -> Sequence[object]:
    if value is None or value == {}:
        return ()
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list")
    return value


def whole_number(value: object, name: str) -> int:
    """A whole number of at least 1."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1")
    return value


def load_resolv_conf(path: object = None) -> dict[str, object]:
    """``kumo.dns.load_resolv_conf``: the shape that ``configure_resolver`` takes."""
    if path is not None and not isinstance(path, str):
        raise ValueError("the file name must be a string")
    servers: list[str] = []
    search: list[str] = []
    text = Path(path or "/etc/resolv.conf").read_text("utf-8", errors="replace")
    for line in text.splitlines():
        word, *rest = line.split() or [""]
        if word == "nameserver" and rest:
            servers.append(parse_nameserver(rest[0]))
        elif word in ("search", "domain"):
            search = rest
    return {"name_servers": servers, "search": search, "options": {}}
