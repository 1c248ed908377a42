"""The egress path options: one table of what each is called and may hold.

In: an option's name and value as a file has it.  Out: the reasons why it is
refused, or the value in a form that compares equal for equal meanings
(``"60/m"`` and ``"60/min"``).

Source: KumoMTA's documentation of ``kumo.make_egress_path`` and
``conformance/setconfig-*.json``.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from .rules import TomlValue
from .specs import parse_duration, parse_limit, parse_throttle, shown

MERGEABLE: Final = frozenset(
    (
        "additional_connection_limits",
        "additional_message_rate_throttles",
        "additional_source_selection_rates",
    )
)
"""The tables whose inner keys are merged; every other option replaces the earlier one."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option that is set, and where.

    ``scope`` is the table as the file has it (``["gmail.com".sources."ip1"]``).
    ``inner`` tells where each entry of a mergeable table came from.
    """

    value: TomlValue
    file: str
    line: int
    scope: str
    inner: Mapping[str, Option] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class OptionType:
    """What an option holds.

    ``parse`` returns the canonical value or raises ValueError; with ``table``
    it is for each value of a table of names.  ``default`` is canonical as well.
    """

    wanted: str
    parse: Callable[[object], object]
    default: object = None
    table: bool = False


def check_option(name: str, value: TomlValue) -> list[str]:
    """Why `name` can't be set to `value`; an empty list when it can."""
    option = SCHEMA.get(name)
    if option is None:
        return [unknown_option(name)]
    return _reasons(option, value)


def check_source_option(name: str, value: TomlValue) -> list[str]:
    """As :func:`check_option`, for a provider's ``sources`` table."""
    if name == PROVIDER_SELECTION_RATE:
        return _reasons(_throttle(), value)
    return check_option(name, value)


PROVIDER_SELECTION_RATE: Final = "provider_source_selection_rate"


def unknown_option(name: str, also: Iterable[str] = ()) -> str:
    """The message for an option that does not exist, with the nearest that does."""
    hint = suggestion(name, [*SCHEMA, *also])
    return f"unknown option {shown(name)}{hint or ': no egress path option is called so'}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """`` (did you mean "…"?)``, or nothing when no known word is near."""
    known = list(known)
    folded = {k.lower(): k for k in known}
    close = difflib.get_close_matches(word[:80].lower(), folded, n=1, cutoff=0.7)
    return f' (did you mean "{folded[close[0]]}"?)' if close else ""


def canonical(name: str, value: TomlValue) -> object:
    """`value` so that equal meanings are equal; ValueError where it is refused."""
    reasons = check_option(name, value)
    if reasons:
        raise ValueError("; ".join(reasons))
    option = SCHEMA[name]
    if option.table:
        assert isinstance(value, dict)
        return {key: option.parse(inner) for key, inner in value.items()}
    return option.parse(value)


def _reasons(option: OptionType, value: TomlValue) -> list[str]:
    if not option.table:
        return _reason(option, value)
    if not isinstance(value, dict):
        return [f"got {shown(value)}, wanted {option.wanted}"]
    return [
        f"{shown(key)}: {reason}"
        for key, inner in value.items()
        for reason in _reason(option, inner)
    ]


def _reason(option: OptionType, value: TomlValue) -> list[str]:
    try:
        option.parse(value)
    except ValueError as err:
        return [str(err)]
    return []


def _parse_bool(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"got {shown(value)}, wanted true or false (without quotes)")
    return value


def _parse_string(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"got {shown(value)}, wanted a string")
    return value


def _unsigned(largest: int) -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"got {shown(value)}, wanted a whole number (without quotes)")
        if not 0 <= value <= largest:
            raise ValueError(f"got {shown(value)}, wanted a number from 0 to {largest}")
        return value

    return parse


def _one_of(*names: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        # {Required={}} is another spelling of the same value.
        if isinstance(value, dict) and len(value) == 1:
            ((key, inner),) = value.items()
            value = key if inner in ({}, []) else value
        if not isinstance(value, str) or value not in names:
            hint = suggestion(value, names) if isinstance(value, str) else ""
            raise ValueError(f"got {shown(value)}{hint}, wanted one of {', '.join(names)}")
        return value

    return parse


def _parse_cidrs(value: object) -> tuple[str, ...]:
    entries = _strings(value, "an array of IP addresses and CIDR blocks")
    return tuple(_parse_cidr(entry) for entry in entries)


_CIDR = re.compile(r"(?P<address>[0-9a-fA-F.:]+)(?:/\+?0*(?P<bits>[0-9]{1,3}))?")


def _parse_cidr(text: str) -> str:
    """One address or block; ``any`` is every address, as upstream has it."""
    if text == "any":
        return text
    m = _CIDR.fullmatch(text)
    if m is None:
        raise ValueError(f"{shown(text)} is neither an IP address nor a CIDR block")
    try:
        address = ipaddress.ip_address(m["address"])
    except ValueError:
        raise ValueError(f"{shown(text)} is neither an IP address nor a CIDR block") from None
    bits = address.max_prefixlen if m["bits"] is None else int(m["bits"])
    if bits > address.max_prefixlen:
        raise ValueError(f"{shown(text)}: a prefix of {bits} bits is too long")
    network = ipaddress.ip_network((address, bits), strict=False)
    if network.network_address != address:
        raise ValueError(f'{shown(text)}: bits are set after the prefix; did you mean "{network}"?')
    return str(network)


def _parse_suites(value: object) -> tuple[str, ...]:
    suites = _strings(value, "an array of cipher suite names")
    for suite in suites:
        if suite.upper() not in _RUSTLS_SUITES or not suite.isascii():
            hint = suggestion(suite, _RUSTLS_SUITES)
            raise ValueError(f"{shown(suite)} is no rustls cipher suite{hint}")
    return tuple(suite.upper() for suite in suites)


def _parse_openssl_options(value: object) -> tuple[str, ...]:
    names = _parse_string(value).split("|")
    for name in names:
        if name not in _OPENSSL_OPTIONS:
            hint = suggestion(name, _OPENSSL_OPTIONS)
            raise ValueError(
                f"{shown(name)} is no OpenSSL option{hint}; join names by | without spaces"
            )
    return tuple(sorted(set(names)))


def _parse_key_source(value: object) -> object:
    """A file name, or one of three tables; keys a table does not know are ignored upstream."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and (_is_data(value) or _is_vault(value) or _is_event(value)):
        return value
    raise ValueError(
        f"got {shown(value)}, wanted a file name, {{key_data=…}}, "
        "{vault_mount=…, vault_path=…} or {event_name=…, event_args=[…]}"
    )


def _is_data(value: dict[str, object]) -> bool:
    data = value.get("key_data")
    if isinstance(data, list):
        return all(isinstance(b, int) and not isinstance(b, bool) and 0 <= b < 256 for b in data)
    return isinstance(data, str)


def _is_vault(value: dict[str, object]) -> bool:
    optional = ("vault_address", "vault_token", "vault_key")
    return all(isinstance(value.get(k), str) for k in ("vault_mount", "vault_path")) and all(
        isinstance(value[k], str) for k in optional if k in value
    )


def _is_event(value: dict[str, object]) -> bool:
    return isinstance(value.get("event_name"), str) and isinstance(value.get("event_args"), list)


def _strings(value: object, wanted: str) -> list[str]:
    if not isinstance(value, list):
        raise ValueError(f"got {shown(value)}, wanted {wanted}")
    for item in value:
        if not isinstance(item, str):
            raise ValueError(f"got {shown(item)} in the array, wanted {wanted}")
    return value


_USIZE_MAX = 2**63 - 1  # usize is 64 bits, but a TOML integer carries only 63
_RUSTLS_SUITES: Final = (
    "TLS13_AES_256_GCM_SHA384",
    "TLS13_AES_128_GCM_SHA256",
    "TLS13_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
)
_OPENSSL_OPTIONS: Final = (
    "DONT_INSERT_EMPTY_FRAGMENTS",
    "ALL",
    "NO_QUERY_MTU",
    "COOKIE_EXCHANGE",
    "NO_TICKET",
    "NO_SESSION_RESUMPTION_ON_RENEGOTIATION",
    "NO_COMPRESSION",
    "ALLOW_UNSAFE_LEGACY_RENEGOTIATION",
    "SINGLE_ECDH_USE",
    "SINGLE_DH_USE",
    "CIPHER_SERVER_PREFERENCE",
    "TLS_ROLLBACK_BUG",
    "NO_SSLV2",
    "NO_SSLV3",
    "NO_TLSV1",
    "NO_TLSV1_1",
    "NO_TLSV1_2",
    "NO_TLSV1_3",
    "NO_DTLSV1",
    "NO_DTLSV1_2",
    "NO_SSL_MASK",
    "NO_RENEGOTIATION",
    "ENABLE_MIDDLEBOX_COMPAT",
    "PRIORITIZE_CHACHA",
)


def _limit(default: str | None = None) -> OptionType:
    return OptionType(
        'an integer > 0 or "[local:]N"',
        parse_limit,
        None if default is None else parse_limit(default),
    )


def _throttle() -> OptionType:
    return OptionType('"[local:]N/[k]UNIT[,max_burst=B]"', parse_throttle)


def _limit_table() -> OptionType:
    return OptionType("a table of name = limit", parse_limit, {}, table=True)


def _throttle_table() -> OptionType:
    return OptionType("a table of name = throttle", parse_throttle, {}, table=True)


def _number(default: int) -> OptionType:
    return OptionType("a whole number", _unsigned(_USIZE_MAX), default)


def _flag(default: bool = False) -> OptionType:
    return OptionType("true or false", _parse_bool, default)


def _duration(seconds: int | None = None) -> OptionType:
    return OptionType(
        'a duration such as "5 s", or a number of seconds',
        parse_duration,
        None if seconds is None else parse_duration(seconds),
    )


def _string() -> OptionType:
    return OptionType("a string", _parse_string)


def _enum(*names: str) -> OptionType:
    """The first name is the default."""
    return OptionType(f"one of {', '.join(names)}", _one_of(*names), names[0])


def _cidrs(*default: str) -> OptionType:
    return OptionType(
        "an array of IP addresses and CIDR blocks", _parse_cidrs, _parse_cidrs(list(default))
    )


def _key_source() -> OptionType:
    return OptionType("a key source", _parse_key_source)


_SHRINK = ("ShrinkDataAndMeta", "ShrinkData", "NoShrink")

SCHEMA: Final[Mapping[str, OptionType]] = MappingProxyType(
    {
        "connection_limit": _limit("32"),
        "additional_connection_limits": _limit_table(),
        "max_message_rate": _throttle(),
        "max_connection_rate": _throttle(),
        "source_selection_rate": _throttle(),
        "additional_message_rate_throttles": _throttle_table(),
        "additional_source_selection_rates": _throttle_table(),
        "max_ready": _number(1024),
        "consecutive_connection_failures_before_delay": _number(100),
        "max_deliveries_per_connection": _number(1024),
        "max_recipients_per_batch": _number(100),
        "smtp_port": OptionType("a port, 0 to 65535", _unsigned(65535), 25),
        "enable_mta_sts": _flag(True),
        "enable_dane": _flag(),
        "enable_pipelining": _flag(True),
        "enable_rset": _flag(True),
        "tls_prefer_openssl": _flag(),
        "allow_smtp_auth_plain_without_tls": _flag(),
        "allow_smtp_auth_plain_without_valid_certificate": _flag(),
        "aggressive_connection_opening": _flag(),
        "opportunistic_tls_reconnect_on_failed_handshake": _flag(),
        "use_lmtp": _flag(),
        "try_next_host_on_transport_error": _flag(),
        "ignore_8bit_checks": _flag(),
        "connect_timeout": _duration(60),
        "banner_timeout": _duration(60),
        "ehlo_timeout": _duration(300),
        "mail_from_timeout": _duration(300),
        "rcpt_to_timeout": _duration(300),
        "data_timeout": _duration(300),
        "data_dot_timeout": _duration(300),
        "rset_timeout": _duration(5),
        "idle_timeout": _duration(5),
        "starttls_timeout": _duration(5),
        "auth_timeout": _duration(60),
        "refresh_interval": _duration(60),
        "system_shutdown_timeout": _duration(),
        "remember_broken_tls": _duration(),
        "dispatcher_progress_watchdog_timeout": _duration(),
        "ehlo_domain": _string(),
        "provider_name": _string(),
        "readyq_pool_name": _string(),
        "smtp_auth_plain_username": _string(),
        "openssl_cipher_list": _string(),
        "openssl_cipher_suites": _string(),
        "openssl_options": OptionType("OpenSSL option names joined by |", _parse_openssl_options),
        "rustls_cipher_suites": OptionType(
            "an array of rustls cipher suite names", _parse_suites, ()
        ),
        "prohibited_hosts": _cidrs("127.0.0.0/8", "::1", "0.0.0.0", "::"),  # noqa: S104 - refuses, does not bind
        "skip_hosts": _cidrs(),
        "tls_certificate": _key_source(),
        "tls_private_key": _key_source(),
        "smtp_auth_plain_password": _key_source(),
        "enable_tls": _enum(
            "Opportunistic", "OpportunisticInsecure", "Required", "RequiredInsecure", "Disabled"
        ),
        "ip_lookup_strategy": _enum(
            "Ipv4AndIpv6", "Ipv4Only", "Ipv6Only", "Ipv6ThenIpv4", "Ipv4ThenIpv6"
        ),
        "refresh_strategy": _enum("Ttl", "Epoch"),
        "dispatcher_wakeup_strategy": _enum("Aggressive", "Relaxed"),
        "maintainer_wakeup_strategy": _enum("Aggressive", "Relaxed"),
        "reconnect_strategy": _enum("ConnectNextHost", "ReconnectSameHost", "TerminateSession"),
        "low_memory_reduction_policy": _enum(*_SHRINK),
        "no_memory_reduction_policy": _enum(*_SHRINK),
    }
)
"""Every option of an egress path: name → what it holds."""
