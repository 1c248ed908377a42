"""Where the engine is: URLs, taken apart without connecting.  Pure.

In: the text of ``--share``, an environment variable or a settings file; the content of
a password file.  Out: an :class:`Address`, or a ProblemError that shows no secret.

What people know from redis-py, Celery and others::

    redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]           rediss:// with TLS
    unix://[USER[:PASSWORD]@]/PATH[?db=DB]
    redis+sentinel://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...]/SERVICE[/DB]
    redis+cluster://[USER[:PASSWORD]@]HOST[:PORT][,HOST[:PORT]...]

``valkey://`` and ``valkeys://`` are the same as ``redis://`` and ``rediss://``, alone and
before ``+sentinel`` and ``+cluster``.  Options stand behind a question mark.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias
from urllib.parse import parse_qsl, unquote

from sidecar.problems import ProblemError, one_line
from sidecar.secret import HIDDEN, Secret

REMEDY: Final = (
    "a password on a command line is seen by everybody on this host: write the URL without it, and "
    "the password into a file (--share-password-file), or the whole URL into the environment "
    "variable TSA_SIDECAR_SHARE"
)

_SCHEME: Final = re.compile(r"(redis|rediss|valkey|valkeys|unix)(?:\+(sentinel|cluster))?")
_TLS_FILES: Final = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_OPTIONS: Final = (
    "db",
    "service_name",
    "sentinel_username",
    "sentinel_password",
    *_TLS_FILES,
    "ssl_check_hostname",
    "ssl_cert_reqs",
)
_EXAMPLE: Final = "redis://HOST:6379, rediss:// with TLS, unix:///run/redis/redis.sock, \
redis+sentinel://HOST:26379/SERVICE or redis+cluster://HOST:6379"

_Wrong: TypeAlias = Callable[[str], ProblemError]


@dataclass(frozen=True, slots=True)
class Tls:
    """How the engine is verified, and what this side shows it.  Paths of PEM files."""

    ca_certs: str | None = None
    certfile: str | None = None
    keyfile: str | None = None
    verify: bool = True
    check_hostname: bool = True


@dataclass(frozen=True, slots=True)
class Address:
    """Where the engine is and who this is to it.

    ``places``: host and port of the engine, of its Sentinels or of some of a Cluster's
    nodes.  ``service``: what Sentinel calls it.  ``path``: of its unix socket.
    """

    kind: Literal["plain", "unix", "sentinel", "cluster"]
    places: tuple[tuple[str, int], ...] = ()
    path: str = ""
    service: str = ""
    db: int = 0
    user: str | None = None
    password: Secret | None = None
    sentinel_user: str | None = None
    sentinel_password: Secret | None = None
    tls: Tls | None = None

    def __str__(self) -> str:
        """The address for people, without anything secret."""
        if self.kind == "unix":
            return f"unix://{self.path}"
        scheme = "rediss" if self.tls else "redis"
        if self.kind != "plain":
            scheme += f"+{self.kind}"
        places = ",".join(spell_place(host, port) for host, port in self.places)
        return f"{scheme}://{places}" + (f"/{self.service}" if self.service else "")

    def without_secrets(self, text: str) -> str:
        """`text` on one line, with what is secret made unreadable."""
        for secret in (self.password, self.sentinel_password):
            if secret is not None and secret.value:
                text = text.replace(secret.value, HIDDEN)
        return one_line(text)

    def with_password(self, text: str, *, where: str) -> Address:
        """With the password of a file: `text` is its content, `where` names it.

        Raises ProblemError where there is none in it, or another one in the URL.
        """
        password = text.removesuffix("\n").removesuffix("\r")
        if not password or "\n" in password:
            message = "holds " + ("more than one line" if password else "no password")
            message += ": write the password into it, alone on one line"
            raise ProblemError.one("share-password", message, where=where)
        if self.password is not None:
            message = "the URL has a password as well: keep one of the two"
            raise ProblemError.one("share-password", message, where=where)
        return replace(self, password=Secret(password))


def spell_place(host: str, port: int) -> str:
    """Host and port as a URL has them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def read_url(text: str, *, where: str = "--share", seen_by_all: bool = False) -> Address:
    """Take a URL apart.

    `where` names where it stands.  `seen_by_all`: it stood on a command line, so it must
    not hold a password.  Raises ProblemError.
    """

    def wrong(message: str) -> ProblemError:
        return ProblemError.one("share-url", message, where=where)

    scheme, mark, rest = text.strip().partition("://")
    known = _SCHEME.fullmatch(scheme.lower())
    if not mark or known is None or (known[1] == "unix" and known[2]):
        raise wrong(f"is not a URL of Redis or Valkey, such as {_EXAMPLE}")
    rest, _, query = rest.partition("?")
    before, at, rest = rest.rpartition("@")
    user, has_password, password = before.partition(":") if at else ("", "", "")
    options = _options(query, wrong)
    if seen_by_all and (has_password or "sentinel_password" in options):
        raise wrong(REMEDY)
    base = Address(
        kind="unix" if known[1] == "unix" else _kind(known[2]),
        user=unquote(user) or None,
        password=Secret(unquote(password)) if password else None,
        sentinel_user=options.get("sentinel_username"),
        sentinel_password=Secret(options["sentinel_password"])
        if "sentinel_password" in options
        else None,
        tls=_tls(options, wrong) if known[1] in ("rediss", "valkeys") else None,
    )
    if base.tls is None and any(name.startswith("ssl_") for name in options):
        raise wrong("has ssl_ options, but no TLS: rediss:// has it")
    if base.kind == "unix":
        if not rest.startswith("/"):
            raise wrong("has no absolute path: unix:///run/redis/redis.sock")
        return replace(base, path=unquote(rest), db=_db(options.get("db", ""), wrong))
    places, *behind = rest.split("/")
    if base.kind == "sentinel":
        service = options.get("service_name") or (unquote(behind.pop(0)) if behind else "")
        if not service:
            raise wrong("does not say which service the Sentinels are asked for: …HOST:26379/NAME")
        base = replace(base, service=service)
    if len([part for part in behind if part]) > 1:
        raise wrong("has more behind the host than the number of a database")
    db = _db(options.get("db") or (behind[0] if behind else ""), wrong)
    if db and base.kind == "cluster":
        raise wrong("names a database, but a Cluster has only database 0")
    found = tuple(_place(part, base.kind, wrong) for part in places.split(","))
    if len(found) > 1 and base.kind == "plain":
        raise wrong("names several hosts: redis+sentinel:// and redis+cluster:// can")
    return replace(base, places=found, db=db)


def _kind(text: str | None) -> Literal["plain", "sentinel", "cluster"]:
    if text == "sentinel":
        return "sentinel"
    return "cluster" if text == "cluster" else "plain"


def _options(query: str, wrong: _Wrong) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in ("password", "username"):
            raise wrong(f"has the option {name}: it stands before the host, USER:PASSWORD@HOST")
        if name not in _OPTIONS:
            shown = one_line(name)[:40]
            raise wrong(f"has the unknown option {shown}; there are {', '.join(_OPTIONS)}")
        options[name] = value
    return options


def _tls(options: Mapping[str, str], wrong: _Wrong) -> Tls:
    reqs = options.get("ssl_cert_reqs", "required")
    if reqs not in ("required", "none"):
        raise wrong("ssl_cert_reqs is required or none")
    checks = options.get("ssl_check_hostname", "true").lower()
    if checks not in ("true", "false"):
        raise wrong("ssl_check_hostname is true or false")
    ca_certs, certfile, keyfile = (options.get(name) or None for name in _TLS_FILES)
    verify = reqs == "required"
    return Tls(ca_certs, certfile, keyfile, verify, verify and checks == "true")


def _db(text: str, wrong: _Wrong) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise wrong("the database behind the host is a number, such as /0")
    return int(text)


def _place(text: str, kind: str, wrong: _Wrong) -> tuple[str, int]:
    port_of_kind = 26379 if kind == "sentinel" else 6379
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:\s]*))(?::(\d{1,5}))?", text, re.ASCII)
    if found is None or not (host := found[1] or found[2]):
        raise wrong("has no usable HOST or HOST:PORT")
    port = int(found[3] or port_of_kind)
    if not 0 < port < 65536:
        raise wrong("has a port that is not between 1 and 65535")
    return unquote(host), port
