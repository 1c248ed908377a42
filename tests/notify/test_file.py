"""``notify.toml``: what it says, what is wrong with it; no secret is ever shown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sidecar.notify.file import FORMAT, load_targets
from sidecar.notify.targets import (
    AppriseTarget,
    CommandTarget,
    Targets,
    WebhookTarget,
    without_secrets,
)
from sidecar.problems import ProblemError

KEY = "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="
SECRET = "s3cr3t-T0ken"


def write(path: Path, text: str, mode: int = 0o640) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def load(tmp_path: Path, text: str, **env: str) -> Targets:
    return load_targets(write(tmp_path / "notify.toml", text), env)


def refusal(tmp_path: Path, text: str, **env: str) -> str:
    with pytest.raises(ProblemError) as caught:
        load(tmp_path, text, **env)
    for problem in caught.value.problems:
        assert problem.file == str(tmp_path / "notify.toml")
    return str(caught.value)


def test_the_format_that_is_shown_is_read(tmp_path: Path) -> None:
    key = write(tmp_path / "oncall.key", KEY + "\n")
    url = write(tmp_path / "mail.url", "mailtos://user:pass@example.com")
    text = FORMAT.replace("/etc/tsa-sidecar/oncall.key", str(key))
    text = text.replace("/etc/tsa-sidecar/mail.url", str(url))
    targets = load(tmp_path, text, ONCALL_TOKEN=SECRET)
    oncall, pager, mail = targets.by_name.values()
    assert isinstance(oncall, WebhookTarget)
    assert (oncall.token and oncall.token.value, oncall.key and oncall.key.value) == (SECRET, KEY)
    assert oncall.default
    assert isinstance(pager, CommandTarget)
    assert pager.argv == ("/usr/local/bin/page", "--team", "mail")
    assert isinstance(mail, AppriseTarget)
    assert (mail.wait, mail.every, mail.listed, mail.keep, mail.timeout) == (
        10.0,
        60.0,
        20,
        259_200.0,
        30.0,
    )
    assert targets.defaults == ("oncall",)


def test_a_rule_that_names_nobody_that_is_goes_to_the_defaults(tmp_path: Path) -> None:
    text = "[target.a]\ncommand = ['/bin/true']\ndefault = true\n[target.b]\ncommand = ['/bin/b']\n"
    targets = load(tmp_path, text)
    assert targets.of(()) == ("a",)
    assert targets.of(("b",)) == ("b",)
    assert targets.of(("b", "c")) == ("b",)
    assert targets.of(("c",)) == ("a",)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[target.a]\n", "2: target a: wanted one of command, webhook, apprise"),
        ("[target.a]\ncommand = '/bin/true'\n", "no shell"),
        ("[target.a]\ncommand = ['page']\n", "begins with the path of a program"),
        ("[target.a]\ncommand = []\n", "begins with the path of a program"),
        ("[target.a]\ncommand = ['/bin/a']\nwebhook = 'https://x.example/'\n", "found 2"),
        ("[target.a]\ncommand = ['/bin/a']\ntoken = 'x'\n", 'unknown key "token"'),
        ("[target.a]\ncommand = ['/bin/a']\nevrey = '1m'\n", 'did you mean "every"'),
        ("[target.a]\ncommand = ['/bin/a']\nwait = 'soon'\n", "notify.toml:3: target a wait"),
        ("[target.a]\ncommand = ['/bin/a']\nlist = 100000\n", "wanted 1 to 1000"),
        ("[target.a]\ncommand = ['/bin/a']\ntimeout = '1 day'\n", "wanted 1 to 300 seconds"),
        ("[target.a]\nwebhook = 'http://alerts.example.com/'\n", "is not an https URL"),
        ("[target.a]\nwebhook = 'https://u:p@alerts.example.com/'\n", "token instead"),
        ("[target.a]\nwebhook = 'https://x.example/'\nsecret = 'short'\n", "openssl rand"),
        ("[target.a]\nwebhook = 'https://x.example/'\nsecret = 'whsec_YWJj'\n", "24 to 64 bytes"),
        ("[target.a]\nwebhook_env = 'NOT_SET'\n", "the variable is not set"),
        ("[target.a]\nwebhook_file = '/nowhere/at/all'\n", "No such file"),
        ("[target.a]\napprise = 'what is this'\n", "is not a URL of apprise"),
        ("[target.'a b']\ncommand = ['/bin/a']\n", "a name is a letter"),
        ("[targets.a]\ncommand = ['/bin/a']\n", 'did you mean "target"'),
        ("target = 3\n", "wanted a table for each target"),
        ("[target.a\n", "notify.toml:1: not valid TOML"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    assert expected in refusal(tmp_path, text).replace("notify.toml:1: target", "2: target")


@pytest.mark.parametrize(
    "line",
    [
        f"webhook = ['{SECRET}']",
        f"webhook = 'http://example.com/{SECRET}'",
        f"webhook = 'https://ex ample.com/{SECRET}'",
        f"webhook = 'https://x.example/'\nsecret = '{SECRET}'",
        f"webhook = 'https://x.example/'\ntoken = ['{SECRET}']",
        f"webhook = 'https://x.example/'\ntoken = 'a {SECRET}'",
        f"apprise = '{SECRET}'",
        f"apprise = '{SECRET}",
        f"apprise = {SECRET}",
    ],
)
def test_no_error_shows_a_secret(tmp_path: Path, line: str) -> None:
    assert SECRET not in refusal(tmp_path, f"[target.a]\n{line}\n")


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604, 0o602, 0o641])
def test_a_file_that_others_may_read_or_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path / "notify.toml", "[target.a]\ncommand = ['/bin/a']\n", mode)
    with pytest.raises(ProblemError, match=r"has mode 0\d\d\d, .* chmod 640"):
        load_targets(path, {})
    path.chmod(0o640)
    secret = write(tmp_path / "url", "https://x.example/", mode)
    with pytest.raises(ProblemError, match=r"has mode 0\d\d\d, .* chmod 640"):
        load(tmp_path, f"[target.a]\nwebhook_file = '{secret}'\n")


@pytest.mark.parametrize("kind", ["directory", "pipe", "missing", "latin"])
def test_what_is_no_file_of_text_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "notify.toml"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path, 0o600)
    elif kind == "latin":
        path.write_bytes(b"# \xe9\n")
        path.chmod(0o600)
    with pytest.raises(ProblemError) as caught:
        load_targets(path, {})
    assert str(path) in str(caught.value)


def test_nothing_that_is_printed_of_a_target_shows_a_secret(tmp_path: Path) -> None:
    targets = load(
        tmp_path,
        f"[target.a]\nwebhook = 'https://x.example/{SECRET}'\ntoken = '{SECRET}'\n"
        f"secret = '{KEY}'\n"
        f"[target.b]\napprise = 'slack://{SECRET}/second-{SECRET}/#general'\n",
    )
    assert SECRET not in repr(targets)
    assert KEY not in repr(targets)
    hook, chat = targets.by_name.values()
    assert (hook.place, chat.place) == ("https://x.example", "slack://")
    for target in (hook, chat):
        said = f"POST https://x.example/{SECRET} failed: bad token {SECRET} or {KEY}"
        assert SECRET not in without_secrets(said, target)
    assert KEY not in without_secrets(KEY, hook)
