"""The file of targets, ``notify.toml``: who is told, read and checked.

In: a path, and the environment for secrets that stand there.  Out: the targets,
or all that is wrong with them.  No message shows a value that may be secret.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from sidecar.private_file import read_private
from sidecar.problems import Problem, ProblemError
from sidecar.secret import Secret
from sidecar.shaping.documents import DocumentError, parse_toml
from sidecar.times import NS
from sidecar.tools.table import Table

from .targets import LISTED, AppriseTarget, CommandTarget, Target, Targets, WebhookTarget

FORMAT: Final = """\
[target.oncall]
webhook = "https://alerts.example.com/tsa"  # or webhook_file, webhook_env
secret_file = "/etc/tsa-sidecar/oncall.key" # signs each message; or secret, secret_env
token_env = "ONCALL_TOKEN"                  # sent as Authorization: Bearer …
default = true                              # told of every rule that names no target

[target.pager]
command = ["/usr/local/bin/page", "--team", "mail"]  # JSON on its standard input

[target.mail]
apprise_file = "/etc/tsa-sidecar/mail.url"  # needs tsa-sidecar[apprise]; or apprise
wait = "10s"      # a first event waits for others to join it
every = "1m"      # at least so long between two messages
list = 20         # so many events in full, the others counted
keep = "3 days"   # so long is a message tried
timeout = "30s"   # for one attempt
"""
"""The format by example."""

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_TARGETS_MOST: Final = 50
_LISTED_MOST: Final = 1000
_LARGEST: Final = 1 << 20
_KINDS: Final = ("command", "webhook", "apprise")
_SECRETS: Final = ("webhook", "apprise", "secret", "token")
_COMMON: Final = ("default", "wait", "every", "list", "keep", "timeout")
_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "command": ("command",),
    "webhook": tuple(
        f"{k}{end}" for k in ("webhook", "secret", "token") for end in ("", "_file", "_env")
    ),
    "apprise": ("apprise", "apprise_file", "apprise_env"),
}
_KEY_BYTES: Final = range(24, 65)
_HOW_TO_MAKE_ONE: Final = (
    "whsec_ and base64 of 24 to 64 bytes, as `echo whsec_$(openssl rand -base64 32)` makes it"
)


def load_targets(path: Path, env: Mapping[str, str]) -> Targets:
    """The targets that the file names.  Raises ProblemError with all that is wrong with it."""
    file = str(path)
    try:
        text = read_private(path, largest=_LARGEST).decode()
        document = parse_toml(text)
    except UnicodeDecodeError:
        raise ProblemError.one("encoding", "not UTF-8", file=file) from None
    except DocumentError as error:
        message = f"not valid TOML: {error}"
        raise ProblemError.one("bad-toml", message, file=file, line=error.line) from None
    except (OSError, ValueError) as error:
        raise ProblemError.one("notify-file", _reason(error), file=file) from None
    problems: list[Problem] = []
    root = Table(document, file, problems, document.data, (), "")
    root.only(("target",))
    found: dict[str, Target] = {}
    named = document.data.get("target", {})
    if not isinstance(named, dict) or not all(isinstance(v, dict) for v in named.values()):
        root.error("bad-value", "wanted a table for each target, as in [target.oncall]", "target")
        named = {}
    if len(named) > _TARGETS_MOST:
        root.error("too-many", f"more than {_TARGETS_MOST} targets", "target")
    for name, data in named.items():
        table = Table(document, file, problems, data, ("target", name), f"target {name}")
        if _NAME.fullmatch(name) is None:
            table.error("bad-name", "a name is a letter and up to 63 letters, digits, -, _ or .")
            continue
        target = _target(name, table, env)
        if target is not None:
            found[name] = target
    if problems:
        raise ProblemError(problems)
    return Targets(found)


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _target(name: str, table: Table, env: Mapping[str, str]) -> Target | None:
    """The target, or None and its problems in the table's list."""
    before = len(table.problems)
    kinds = [kind for kind in _KINDS if any(key in table.data for key in _spellings(kind))]
    if len(kinds) != 1:
        table.error("bad-target", f"wanted one of {', '.join(_KINDS)}, found {len(kinds)}")
        return None
    kind = kinds[0]
    table.only((*_KEYS[kind], *_COMMON))
    common = _common(name, table, kind)
    make: Callable[[Table, dict[str, Any], Mapping[str, str]], Target | None] = {
        "command": _command,
        "webhook": _webhook,
        "apprise": _apprise,
    }[kind]
    target = make(table, common, env)
    return None if len(table.problems) > before else target


def _spellings(key: str) -> tuple[str, ...]:
    return (key, f"{key}_file", f"{key}_env") if key in _SECRETS else (key,)


def _common(name: str, table: Table, kind: str) -> dict[str, Any]:
    listed = table.count("list", least=1, most=_LISTED_MOST)
    found: dict[str, Any] = {
        "name": name,
        "default": table.flag("default", default=False),
        "listed": listed if listed is not None else 20 if kind == "apprise" else LISTED,
    }
    for key, least, most in (
        ("wait", 0, 3600),
        ("every", 0, 86400),
        ("keep", 60, 30 * 86400),
        ("timeout", 1, 300),
    ):
        ns = table.duration(key)
        if ns is None:
            continue
        if not least * NS <= ns <= most * NS:
            table.error("bad-value", f"wanted {least} to {most} seconds", key)
        found[key] = ns / NS
    return found


def _command(table: Table, common: dict[str, Any], _env: Mapping[str, str]) -> Target | None:
    argv = table.texts("command")
    if isinstance(table.data.get("command"), str):
        table.error(
            "bad-value", 'wanted a list: no shell reads it: ["/usr/bin/page", "x"]', "command"
        )
    elif not argv or not argv[0].startswith("/"):
        table.error("bad-value", "wanted a list that begins with the path of a program", "command")
    elif any("\0" in part for part in argv):
        table.error("bad-value", "holds a NUL character", "command")
    return CommandTarget(**common, argv=argv)


def _webhook(table: Table, common: dict[str, Any], env: Mapping[str, str]) -> Target | None:
    url = _secret(table, "webhook", env)
    if url is None:
        return None
    if (reason := _no_webhook(url.value)) is not None:
        table.error("bad-value", reason, _spelt(table, "webhook"))
    secret, token = _secret(table, "secret", env), _secret(table, "token", env)
    key = None
    if secret is not None:
        key = _key(secret)
        if key is None:
            table.error("bad-value", f"wanted {_HOW_TO_MAKE_ONE}", _spelt(table, "secret"))
    if token is not None and re.fullmatch(r"[!-~]+", token.value) is None:
        table.error("bad-value", "wanted printable ASCII without blanks", _spelt(table, "token"))
    return WebhookTarget(**common, url=url, token=token, key=key)


def _no_webhook(url: str) -> str | None:
    """Why `url` is none that may be posted to; None where it is."""
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError when it is no port
    except ValueError:
        return "is not a URL"
    if re.fullmatch(r"[!-~]+", url) is None or not parts.hostname or parts.fragment:
        return "is not a URL: what is not ASCII is written percent-encoded, hosts as xn--"
    if parts.username is not None:
        return "holds a user's name: give a token instead"
    if parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(parts.hostname)):
        return None
    return "is not an https URL (http is taken for this machine only: 127.0.0.1, localhost)"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _key(secret: Secret) -> Secret | None:
    """The secret, if it is one that a receiver's library takes."""
    try:
        raw = base64.b64decode(secret.value.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        return None
    return secret if secret.value.startswith("whsec_") and len(raw) in _KEY_BYTES else None


def _apprise(table: Table, common: dict[str, Any], env: Mapping[str, str]) -> Target | None:
    url = _secret(table, "apprise", env)
    if url is None:
        return None
    if re.fullmatch(r"[a-z0-9]+://[^\x00-\x20]+", url.value) is None:
        table.error(
            "bad-value", "is not a URL of apprise, such as mailtos://…", _spelt(table, "apprise")
        )
    return AppriseTarget(**common, url=url)


def _spelt(table: Table, key: str) -> str:
    """The key as the table has it."""
    return next((name for name in _spellings(key) if name in table.data), key)


def _secret(table: Table, key: str, env: Mapping[str, str]) -> Secret | None:
    """What stands under `key`, in the file of ``KEY_file``, or in the variable of ``KEY_env``."""
    given = [name for name in _spellings(key) if name in table.data]
    if len(given) > 1:
        table.error("bad-value", f"{' and '.join(given)} say the same: keep one", given[1])
    if not given:
        return None
    name, value = given[0], table.data[given[0]]
    if not isinstance(value, str) or not value:
        table.error("bad-value", "wanted a string", name)  # without the value: it is a secret
        return None
    if name.endswith("_env"):
        value = env.get(value, "")
        if not value:
            table.error("no-variable", "the variable is not set", name)
    elif name.endswith("_file"):
        try:
            value = read_private(Path(value), largest=_LARGEST).decode().strip()
        except UnicodeDecodeError:
            value = ""
            table.error("bad-value", "the file is not UTF-8", name)
        except (OSError, ValueError) as error:
            table.error("bad-value", f"{value}: {_reason(error)}", name)
            return None
        if not value:
            table.error("bad-value", "the file is empty", name)
    return Secret(value) if value else None
