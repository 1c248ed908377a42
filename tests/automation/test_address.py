"""Recipients, queue names and sites, as a real daemon read them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.automation.address import QueueName, recipient_domain, site_name, tenant_of


@pytest.mark.parametrize(
    ("recipient", "domain"),
    [
        ("user@example.com", "example.com"),
        ("<user@example.com>", "example.com"),
        ("<@relay.example,@b.example:user@example.com>", "example.com"),
        ('"quoted local"@example.com', "example.com"),
        ('"a\\"b@c"@example.com', "example.com"),
        ("user@EXAMPLE.COM", "example.com"),
        ("usér@exämple.com", "xn--exmple-cua.com"),
        ("a@faß.example", "xn--fa-hia.example"),
        ("user@xn--exmple-cua.com", "xn--exmple-cua.com"),
        ("user@[10.0.0.1]", "[10.0.0.1]"),
        ("user@[IPv6:::1]", "[IPv6:::1]"),
        ("user@[ipv6:2001:DB8:0::1]", "[IPv6:2001:db8::1]"),
        ("user@[IPv6:::ffff:10.0.0.1]", "[IPv6:::ffff:10.0.0.1]"),
        ("user@[tag:what-ever]", "[tag:what-ever]"),
        ("user@x_y.example", "x_y.example"),
        ("user@default", "default"),
        ("postmaster", None),
        ("Postmaster", None),
        ("<POSTMASTER>", None),
        ("postmaster@example.com", "example.com"),
    ],
)
def test_the_domain_of_a_recipient(recipient: str, domain: str | None) -> None:
    assert recipient_domain(recipient) == domain


@pytest.mark.parametrize(
    "recipient",
    [
        "",
        "<>",
        "noat",
        "a@b@c",
        "user@comcast.net.",
        "user@",
        "@example.com",
        "user@.example",
        "user@-x.example",
        "user@_x.example",
        "user@[10.0.0.256]",
        "user@[IPv6:zz]",
        "user@[IPv6:fe80::1%eth0]",
        "user@[]",
        "user@" + "a" * 64 + ".example",
        "user@" + ".".join(["a" * 60] * 5),
        "us er@example.com",
        "user@example.com\n",
        "user@exa mple.com",
        "user@example.com]\n[default",
        "user@\u2028.example",
    ],
)
def test_what_kumod_can_not_parse_is_refused(recipient: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        recipient_domain(recipient)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("example.com", QueueName("example.com")),
        ("acme@example.com", QueueName("example.com", "acme")),
        ("summer:acme@example.com", QueueName("example.com", "acme", "summer")),
        ("summer:acme@example.com!smarthost.example", QueueName("example.com", "acme", "summer")),
        ("example.com!smarthost.example:2525", QueueName("example.com")),
        ("summer:@example.com", QueueName("example.com", "", "summer")),
        ("@example.com", QueueName("example.com", "")),
        ("a:b:c@example.com", QueueName("example.com", "b:c", "a")),
        ("", QueueName("")),
    ],
)
def test_the_parts_of_a_queue_name(name: str, parts: QueueName) -> None:
    assert QueueName.parse(name) == parts


@pytest.mark.parametrize(
    ("queue", "source", "site"),
    [
        ("ip1->(mx1|mx2).comcast.net@smtp_client", "ip1", "(mx1|mx2).comcast.net"),
        ("unspecified->mx.example@smtp_client", "unspecified", "mx.example"),
        ("ip1->mx.example@smtp_client", "ip2", "ip1->mx.example"),
        ("ip1->@smtp_client", "ip1", ""),
        ("", "ip1", ""),
    ],
)
def test_the_site_within_a_ready_queue_name(queue: str, source: str, site: str) -> None:
    assert site_name(queue, source) == site


@given(
    st.text(st.characters(codec="utf-8"), max_size=5) | st.sampled_from(("user1", "a.b", "é")),
    st.sampled_from(("example.com", "EXAMPLE.com", "[10.0.0.1]", "exämple.com", "-x", "a..b", "")),
)
def test_with_and_without_angle_brackets_it_is_the_same(local: str, domain: str) -> None:
    def read(recipient: str) -> str | None:
        try:
            return recipient_domain(recipient)
        except ValueError:
            return "no address"

    bare = f"{local}@{domain}"
    if not bare.startswith(("<", "@")):
        assert read(bare) == read(f"<{bare}>")


@given(st.text(alphabet="ab:@!."))
def test_the_tenant_alone_is_that_of_the_queues_name(name: str) -> None:
    assert tenant_of(name) == QueueName.parse(name).tenant
