"""Parsers of single settings: a plain value in (text, number, list, table), the checked one out.

Each raises ValueError with a reason that fits behind ``NAME: ``.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from sidecar.log.record import SKIPPED_TYPES
from sidecar.problems import ProblemError
from sidecar.shaping.specs import parse_duration
from sidecar.times import NS

from .values import Address, Network, Retention

if TYPE_CHECKING:
    from sidecar.share.address import Address as EngineAddress

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


def nearest(name: str, known: Iterable[str], *, likeness: float = 0.6) -> str | None:
    """The known name that `name` was probably meant to be, or None."""
    by_fold = {k.casefold(): k for k in known}
    near = difflib.get_close_matches(name.casefold(), by_fold, n=1, cutoff=likeness)
    return by_fold[near[0]] if near else None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean "x"?`` or nothing."""
    near = nearest(name, known)
    return "" if near is None else f'; did you mean "{near}"?'


def parse_text(value: object) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise ValueError(f"must be text, not {kind(value)}")
    if not value:
        raise ValueError("must not be empty")
    if "\0" in value:
        raise ValueError("must not hold a NUL character")
    return value


def kind(value: object) -> str:
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


class ListText(str):
    """The text of a variable that holds a list."""

    __slots__ = ()

    def items(self) -> list[str]:
        """Its items, separated and quoted as in a shell; ValueError when a quote stays open."""
        try:
            return shlex.split(self)
        except ValueError as error:
            raise ValueError(f"{str(self)!r} is no list: {error}") from None


def items_of(value: object, *, commas: bool = False) -> list[object]:
    """The items of a list; one text stands for a list of one, an empty table or text for none."""
    if isinstance(value, ListText):
        value = value.items()
    if isinstance(value, Mapping):
        if value:
            raise ValueError("must be a list, not a table with names")
        return []
    if isinstance(value, str | os.PathLike):
        value = [value]
    if not isinstance(value, Sequence | frozenset | set):
        raise ValueError(f"must be a list, not {kind(value)}")
    items: list[object] = []
    for item in value:
        if commas and isinstance(item, str):
            items.extend(part.strip() for part in item.split(","))
        else:
            items.append(item)
    return [item for item in items if item != ""]


def parse_texts(value: object) -> tuple[str, ...]:
    return tuple(parse_text(item) for item in items_of(value))


def parse_path(value: object) -> Path:
    return Path(parse_text(value))


def parse_notify(value: object) -> Path | None:
    """The path of a file; none and off turn it off."""
    return None if is_off(value) else parse_path(value)


def parse_paths(value: object) -> tuple[Path, ...]:
    return tuple(Path(text) for text in parse_texts(value))


def parse_share(value: object) -> EngineAddress | None:
    """The address of a Redis or Valkey; none and off turn it off."""
    from sidecar.share.address import read_url  # noqa: PLC0415 - takes a while, and few need it

    if is_off(value):
        return None
    try:
        return read_url(parse_text(value))
    except ProblemError as error:
        raise ValueError(error.problems[0].message) from None


def parse_share_name(value: object) -> str:
    """A name for a group: letters, digits, ``_``, ``.`` and ``-``."""
    text = parse_text(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", text):
        raise ValueError(f'"{text[:70]}" is not 1 to 64 letters, digits, "_", "." and "-"')
    return text


def parse_share_host(value: object) -> str | None:
    """A host's name in its group; none and off leave it to the machine."""
    if is_off(value):
        return None
    text = parse_text(value)
    if not re.fullmatch(r"[!-~]{1,255}", text):
        raise ValueError(f'"{text[:70]}" is not 1 to 255 printable ASCII characters, no blanks')
    return text


def is_off(value: object) -> bool:
    return value is False or (isinstance(value, str) and value.lower() in ("none", "off"))


def parse_port(text: str) -> int:
    """A TCP port from 0 (any free one) to 65535."""
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65535:
        raise ValueError(f'"{text}" is not a port: give a number from 0 to 65535')
    return int(text)


def parse_address(value: object) -> Address:
    """``HOST:PORT``, ``[IPv6]:PORT``, or ``:PORT`` for every IPv4 interface."""
    text = parse_text(value)
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
    return Address(parse_host(host) if host else "0.0.0.0", parse_port(port))  # noqa: S104 - it was said


def parse_host(host: str) -> str:
    try:
        return str(ipaddress.IPv4Address(host))
    except ValueError:
        pass
    if re.fullmatch(r"[0-9.]+", host) or not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*)", host):
        raise ValueError(f'"{host}" is neither an IP address nor a host name')
    return host


def parse_listen(value: object) -> Address | None:
    return None if is_off(value) else parse_address(value)


def parse_network(value: object) -> Network:
    """An IP address or a CIDR block; host bits that are set are refused, as upstream does."""
    text = parse_text(value)
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


def parse_networks(value: object) -> tuple[Network, ...]:
    return tuple(parse_network(item) for item in items_of(value, commas=True))


def parse_host_names(value: object) -> tuple[str, ...]:
    """Host names, without ports."""
    names = [parse_text(item) for item in items_of(value, commas=True)]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
            raise ValueError(f'"{name}" is not a host name: give it without http:// and port')
    return tuple(name.lower().removesuffix(".") for name in names)


def parse_nameserver(value: object) -> str:
    """``IP`` or ``IP:PORT`` (``[IPv6]:PORT``) as ``IP:PORT``; the port is 53 unless given."""
    text = parse_text(value)
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


def parse_nameservers(value: object) -> tuple[str, ...]:
    return tuple(parse_nameserver(item) for item in items_of(value, commas=True))


def one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        text = parse_text(value)
        if text not in choices:
            raise ValueError(
                f'"{text}" is not one of {", ".join(choices)}{did_you_mean(text, choices)}'
            )
        return text

    return parse


def parse_record_types(value: object) -> frozenset[str]:
    names = [parse_text(item) for item in items_of(value, commas=True)]
    for name in names:
        # A type that only a newer kumod writes is let through; a misspelt one
        # would silently skip nothing.
        if name not in RECORD_TYPES and nearest(name, RECORD_TYPES, likeness=0.75) is not None:
            raise ValueError(f'"{name}" is not a record type{did_you_mean(name, RECORD_TYPES)}')
    return frozenset(names)


def parse_pattern(value: object) -> str:
    text = parse_text(value)
    if "/" in text:
        raise ValueError(f'"{text}" must match names of files, without a directory in front')
    return text


def parse_url(value: object) -> str | None:
    if is_off(value):
        return None
    text = parse_text(value)
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


def parse_span(value: object) -> int:
    ns = parse_duration(value)
    if ns <= 0:
        raise ValueError("must be longer than nothing")
    return ns


def parse_poll(value: object) -> float:
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
    if is_off(value):
        return None
    text = parse_text(value).strip()
    size = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?i?)b", text, re.IGNORECASE | re.ASCII)
    if size is not None and size[2].lower() in _UNITS:
        count = int(Fraction(size[1]) * _UNITS[size[2].lower()])
        if count <= 0:
            raise ValueError("must be more than nothing")
        return Retention(size_bytes=count)
    if re.fullmatch(r"[0-9.]+", text):
        raise ValueError(f'"{text}" has no unit: write an age like "7 days" or a size like "2 GB"')
    try:
        return Retention(age_ns=parse_span(text))
    except ValueError as error:
        raise ValueError(f'"{text}" is neither an age nor a size like "2 GB": {error}') from None


def parse_merge_options(value: object) -> Mapping[str, str | bool | int]:
    """A table, or a list of ``NAME=VALUE``; ``http_timeout`` comes out in nanoseconds."""
    given: dict[str, object] = {}
    if isinstance(value, Mapping):
        given.update(value)
    else:
        for item in items_of(value, commas=True):
            name, equals, text = parse_text(item).partition("=")
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
            return parse_span(value)
        if name == "skip_remote":
            if isinstance(value, bool):
                return value
            return one_of("true", "false")(value) == "true"
        return one_of(*MERGE_LEVELS)(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def parse_flag(value: object) -> bool:
    """True or false, and their texts."""
    if value in ("true", "false"):
        return value == "true"
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def parse_count(value: object) -> int:
    """A whole number of at least 1; ``_`` and ``,`` may stand between its digits."""
    if isinstance(value, str) and re.fullmatch(r"[0-9][0-9_,]{0,15}", value):
        value = int(value.replace(",", "").replace("_", ""))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{value!r} is not a whole number of at least 1")
    return value
