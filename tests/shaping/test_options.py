"""The options of an egress path: what each may hold, and near misses."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.shaping.options import (
    SCHEMA,
    canonical,
    check_option,
    check_source_option,
)

GOOD: list[tuple[str, Any]] = [
    ("connection_limit", 5),
    ("connection_limit", "local:5"),
    ("connection_limit", {"limit": 5}),
    ("additional_connection_limits", {"a": 5, "b": "local:1"}),
    ("additional_connection_limits", {}),
    ("max_message_rate", "5/s"),
    ("additional_message_rate_throttles", {"a": "5/s"}),
    ("max_ready", 0),
    ("max_ready", 2**63 - 1),
    ("smtp_port", 65535),
    ("enable_dane", True),
    ("idle_timeout", "5s"),
    ("idle_timeout", 5),
    ("idle_timeout", 1.5),
    ("ehlo_domain", ""),
    ("openssl_options", "NO_TICKET|NO_TLSV1_3"),
    ("rustls_cipher_suites", ["tls13_aes_128_gcm_sha256"]),
    ("rustls_cipher_suites", []),
    (
        "prohibited_hosts",
        ["any", "10.0.0.1", "10.0.0.0/8", "::/0", "::ffff:1.2.3.4", "10.0.0.0/+08"],
    ),
    ("skip_hosts", []),
    ("tls_certificate", "/etc/cert.pem"),
    ("tls_certificate", {"key_data": "x", "more": 1}),
    ("tls_certificate", {"key_data": [0, 255]}),
    ("tls_private_key", {"vault_mount": "a", "vault_path": "b"}),
    ("smtp_auth_plain_password", {"event_name": "a", "event_args": [1, {"b": 2.5}]}),
    ("enable_tls", "RequiredInsecure"),
    ("enable_tls", {"Required": {}}),
    ("reconnect_strategy", "TerminateSession"),
]

BAD: list[tuple[str, Any, str]] = [
    ("conection_limit", 5, 'unknown option "conection_limit" (did you mean "connection_limit"?)'),
    ("client_timeouts", {}, 'unknown option "client_timeouts"'),
    ("x" * 500, 5, "unknown option"),
    ("mx_rollup", False, "no egress path option is called so"),
    ("provider_source_selection_rate", "5/s", 'did you mean "source_selection_rate"?'),
    ("connection_limit", 0, "must be 1 or larger"),
    ("connection_limit", True, "true is no limit"),
    ("additional_connection_limits", {"a": 0, "b": 5}, '"a": limit 0'),
    ("additional_connection_limits", [], "got an array, wanted a table of name = limit"),
    ("max_message_rate", 5, "is no throttle"),
    ("max_ready", "80000", "wanted a whole number (without quotes)"),
    ("max_ready", True, "wanted a whole number"),
    ("max_ready", 1.0, "got 1.0"),
    ("max_ready", -1, "a number from 0 to"),
    ("smtp_port", 65536, "from 0 to 65535"),
    ("enable_dane", "true", "wanted true or false (without quotes)"),
    ("enable_dane", 1, "wanted true or false"),
    ("ehlo_domain", 5, "wanted a string"),
    ("openssl_options", "NO_TICKET |NO_TLSV1", "join names by | without spaces"),
    ("openssl_options", "", "is no OpenSSL option"),
    ("rustls_cipher_suites", "TLS13_AES_128_GCM_SHA256", "wanted an array"),
    ("rustls_cipher_suites", ["TLS_AES_128_GCM_SHA256"], "is no rustls cipher suite"),
    ("prohibited_hosts", "10.0.0.1", "wanted an array"),
    ("prohibited_hosts", ["10.0.0.1/8"], 'did you mean "10.0.0.0/8"?'),
    ("prohibited_hosts", ["10.0.0.0/33"], "a prefix of 33 bits is too long"),
    ("prohibited_hosts", ["10"], "neither an IP address nor a CIDR block"),
    ("prohibited_hosts", ["::1%eth0"], "neither an IP address nor a CIDR block"),
    ("prohibited_hosts", ["10.0.0.0/255.0.0.0"], "neither an IP address nor a CIDR block"),
    ("prohibited_hosts", ["010.0.0.1"], "neither an IP address nor a CIDR block"),
    ("prohibited_hosts", [""], "neither an IP address nor a CIDR block"),
    ("prohibited_hosts", [5], "got 5 in the array"),
    ("tls_certificate", 5, "wanted a file name"),
    ("tls_certificate", {"key_data": [256]}, "wanted a file name"),
    ("tls_certificate", {"vault_mount": "a"}, "wanted a file name"),
    ("tls_certificate", {"vault_mount": "a", "vault_path": "b", "vault_token": 5}, "wanted a file"),
    ("tls_certificate", {"event_name": "a"}, "wanted a file name"),
    ("enable_tls", "required", 'got "required" (did you mean "Required"?), wanted one of'),
    ("enable_tls", {"Required": 5}, "got a table"),
    ("ip_lookup_strategy", None, "got null"),
]


@pytest.mark.parametrize(("name", "value"), GOOD)
def test_good_values_are_taken(name: str, value: Any) -> None:
    assert check_option(name, value) == []


@pytest.mark.parametrize(("name", "value", "reason"), BAD)
def test_bad_values_are_refused_with_a_reason(name: str, value: Any, reason: str) -> None:
    (found,) = check_option(name, value)
    assert reason in found
    with pytest.raises(ValueError, match=r"."):
        canonical(name, value)


def test_a_table_with_several_bad_entries_has_a_reason_for_each() -> None:
    assert (
        len(check_option("additional_message_rate_throttles", {"a": 1, "b": "x", "c": "1/s"})) == 2
    )


def test_a_providers_source_takes_one_option_more() -> None:
    assert check_source_option("provider_source_selection_rate", "5/s") == []
    assert check_source_option("provider_source_selection_rate", 5) != []
    assert check_source_option("max_ready", 5) == []
    assert check_source_option("nope", 5) != []


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("connection_limit", 5, "5"),
        ("max_message_rate", "60/min", "60/60s"),
        ("idle_timeout", "1h", 3600),
        ("rustls_cipher_suites", ["tls13_aes_128_gcm_sha256"], ["TLS13_AES_128_GCM_SHA256"]),
        ("openssl_options", "NO_TICKET|ALL", "ALL|NO_TICKET"),
        ("skip_hosts", ["10.0.0.1"], ["10.0.0.1/32"]),
        ("enable_tls", "Required", {"Required": {}}),
        ("additional_connection_limits", {"a": 5}, {"a": "5"}),
    ],
)
def test_equal_meanings_are_equal(name: str, one: Any, other: Any) -> None:
    assert canonical(name, one) == canonical(name, other)


def test_every_documented_option_is_there() -> None:
    assert len(SCHEMA) == 60
    assert SCHEMA["max_ready"].default == 1024
