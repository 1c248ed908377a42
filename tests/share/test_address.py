"""URLs of engines, and what they may not hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.problems import ProblemError
from sidecar.secret import Secret
from sidecar.share import read_url
from sidecar.share.address import Address, Tls


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://mx", Address("plain", (("mx", 6379),))),
        ("valkey://mx:7000/3", Address("plain", (("mx", 7000),), db=3)),
        ("redis://[::1]:7000?db=2", Address("plain", (("::1", 7000),), db=2)),
        (
            "redis://me:p%40ss%3Aw@mx",
            Address("plain", (("mx", 6379),), user="me", password=Secret("p@ss:w")),
        ),
        ("redis://:pw@mx/", Address("plain", (("mx", 6379),), password=Secret("pw"))),
        ("redis://me@mx", Address("plain", (("mx", 6379),), user="me")),
        ("REDISS://mx", Address("plain", (("mx", 6379),), tls=Tls())),
        (
            "valkeys://mx?ssl_ca_certs=/ca.pem&ssl_certfile=/c.pem&ssl_keyfile=/k.pem",
            Address("plain", (("mx", 6379),), tls=Tls("/ca.pem", "/c.pem", "/k.pem")),
        ),
        (
            "rediss://mx?ssl_check_hostname=false",
            Address("plain", (("mx", 6379),), tls=Tls(check_hostname=False)),
        ),
        (
            "rediss://mx?ssl_cert_reqs=none",
            Address("plain", (("mx", 6379),), tls=Tls(verify=False, check_hostname=False)),
        ),
        ("unix:///run/r.sock?db=1", Address("unix", path="/run/r.sock", db=1)),
        (
            "unix://me:pw@/run/r.sock",
            Address("unix", path="/run/r.sock", user="me", password=Secret("pw")),
        ),
        (
            "redis+sentinel://a,b:7000/main/2?sentinel_username=s&sentinel_password=t",
            Address(
                "sentinel",
                (("a", 26379), ("b", 7000)),
                service="main",
                db=2,
                sentinel_user="s",
                sentinel_password=Secret("t"),
            ),
        ),
        (
            "rediss+sentinel://a?service_name=main",
            Address("sentinel", (("a", 26379),), service="main", tls=Tls()),
        ),
        ("redis+cluster://a,b:1", Address("cluster", (("a", 6379), ("b", 1)))),
    ],
)
def test_what_a_url_says(url: str, expected: Address) -> None:
    assert read_url(url) == expected


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "not a URL"),
        ("mx:6379", "not a URL"),
        ("http://mx", "not a URL"),
        ("unix+cluster:///x", "not a URL"),
        ("unix://run/x", "no absolute path"),
        ("redis://", "HOST"),
        ("redis://mx:port", "HOST"),
        ("redis://mx:70000", "65535"),
        ("redis://mx/one", "number"),
        ("redis://mx/1/2", "more behind"),
        ("redis://a,b", "several hosts"),
        ("redis+sentinel://a", "which service"),
        ("redis+cluster://a/1", "database 0"),
        ("redis://mx?timeout=3", "unknown option timeout"),
        ("redis://mx?password=x", "before the host"),
        ("redis://mx?ssl_ca_certs=/x", "rediss://"),
        ("rediss://mx?ssl_cert_reqs=maybe", "ssl_cert_reqs"),
        ("rediss://mx?ssl_check_hostname=maybe", "ssl_check_hostname"),
    ],
)
def test_what_is_no_url(url: str, said: str) -> None:
    with pytest.raises(ProblemError) as error:
        read_url(url, where="--share")
    assert said in str(error.value)
    assert str(error.value).startswith("--share: ")


@pytest.mark.parametrize(
    "url", ["redis://:hunter2@mx", "redis+sentinel://a/s?sentinel_password=hunter2"]
)
def test_a_password_on_the_command_line_is_refused_with_the_remedy(url: str) -> None:
    with pytest.raises(ProblemError) as error:
        read_url(url, seen_by_all=True)
    assert "--share-password-file" in str(error.value)
    assert "TSA_SIDECAR_SHARE" in str(error.value)
    assert "hunter2" not in str(error.value)


@given(st.text(alphabet="ab:/@?#,[]%=&+", max_size=30))
def test_any_text_is_an_address_or_a_problem_that_hides_what_may_be_secret(text: str) -> None:
    url = f"redis://me:hunter2@{text}"
    shown: tuple[str, ...]
    try:
        address = read_url(url)
        assert address.password is not None
        error = f"bad password {address.password.value!s}"
        shown = (str(address), repr(address), address.without_secrets(error))
    except ProblemError as problem:
        shown = (str(problem),)
    assert "hunter2" not in "".join(shown)


def test_the_password_of_a_file() -> None:
    address = read_url("redis://me@mx")
    found = address.with_password("hunter2\n", where="/etc/pw")
    assert found.password == Secret("hunter2")
    for text in ("", "\n", "two\nlines\n"):
        with pytest.raises(ProblemError, match=r"/etc/pw: holds .*, alone on one line"):
            address.with_password(text, where="/etc/pw")
    with pytest.raises(ProblemError, match="keep one"):
        found.with_password("other", where="/etc/pw")
