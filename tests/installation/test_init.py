"""``tsa-sidecar init`` on trees that stand for machines."""

from __future__ import annotations

import http.server
import os
import stat
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from sidecar.cli import main
from sidecar.cli.common import Commands
from sidecar.cli.init import init
from sidecar.settings import SETTINGS

GOLDEN = Path(__file__).parent / "golden"
OVERLAY = "opt/kumomta/etc/tsa-sidecar/shaping.toml"

POLICY = """\
local kumo = require 'kumo'

kumo.on('init', function()
  kumo.configure_local_logs {
    log_dir = '/var/log/kumomta',
    max_segment_duration = '10 minutes',
  }
end)
"""

AUTOMATED = """\
local kumo = require 'kumo'
local shaping = require 'policy-extras.shaping'
local shaper = shaping:setup_with_automation {
  publish = { 'http://127.0.0.1:8008' },
  subscribe = { 'http://127.0.0.1:8008' },
  extra_files = { '/opt/kumomta/etc/policy/shaping.toml' },
}
kumo.on('init', function()
  shaper.setup_publish()
  kumo.configure_local_logs { log_dir = '/data/mail-log' }
end)
"""

READY = """\
local kumo = require 'kumo'
local shaping = require 'policy-extras.shaping'
local shaper = shaping:setup_with_automation {
  publish = {},
  subscribe = {},
  extra_files = {
    '/opt/kumomta/etc/policy/shaping.toml',
    '/opt/kumomta/etc/tsa-sidecar/shaping.toml',
  },
}
kumo.on('init', function()
  shaper.setup_publish()
  kumo.configure_local_logs { log_dir = '/var/log/kumomta' }
  kumo.configure_local_logs { log_dir = '/var/log/kumomta/fast', max_segment_duration = '1s' }
end)
"""

TSA_INIT = """\
local kumo = require 'kumo'
kumo.on('tsa_load_shaping_data', function()
  return kumo.shaping.load {
    '/opt/kumomta/share/policy-extras/shaping.toml',
    '/opt/kumomta/etc/policy/shaping.toml',
  }
end)
"""

RULES = (
    "opt/kumomta/share/policy-extras/shaping.toml",
    "opt/kumomta/etc/policy/shaping.toml",
)


class _Alive(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        ok = self.path == "/api/check-liveness/v1"
        self.send_response(200 if ok else 404)
        self.end_headers()
        self.wfile.write(b"OK" if ok else b"")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def kumod() -> Iterator[str]:
    """The URL of a listener that answers as a kumod that is alive."""
    with http.server.HTTPServer(("127.0.0.1", 0), _Alive) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in SETTINGS:
        for name in row.variables:
            monkeypatch.delenv(name, raising=False)


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def machine(root: Path, policy: str, *, uid: int | None = None, **files: str) -> Path:
    """A machine with KumoMTA and the package's users; uid: the sidecar's, else the present one."""
    root.chmod(0o755)
    uid, gid = (os.geteuid(), os.getegid()) if uid is None else (uid, uid)
    write(
        root,
        {
            "etc/passwd": f"tsa-sidecar:x:{uid}:{gid}:::\nkumod:x:64002:64002:::\n",
            "etc/group": f"tsa-sidecar:x:{gid}:\nkumod:x:{os.getegid()}:kumod\n",
            "opt/kumomta/sbin/kumod": "",
            "opt/kumomta/etc/policy/init.lua": policy,
            "opt/kumomta/etc/policy/tsa_init.lua": TSA_INIT,
            "var/log/kumomta/fast/20261122-120000.000000000": "",
        }
        | dict.fromkeys(RULES, ""),
    )
    write(root, files)
    return root


def run(root: Path, *args: str, kumod: str | None = None) -> Result:
    api = () if kumod is None else ("--kumod-api", kumod)
    return CliRunner().invoke(init, ["--root", str(root), *api, *args])


def tree_of(root: Path) -> dict[str, tuple[int, bytes | None]]:
    """Every path below `root` with its mode and content."""
    return {
        str(path.relative_to(root)): (
            stat.S_IMODE(path.lstat().st_mode),
            path.read_bytes() if path.is_file() else None,
        )
        for path in root.rglob("*")
    }


@pytest.mark.parametrize("road", ["file", "subscribe", "lua"])
@pytest.mark.parametrize(
    ("name", "policy"), [("fresh", POLICY), ("automated", AUTOMATED), ("ready", READY)]
)
def test_the_whole_report(tmp_path: Path, kumod: str, name: str, policy: str, road: str) -> None:
    result = run(machine(tmp_path, policy), "--road", road, kumod=kumod)
    report = result.output.replace(str(tmp_path), "").replace(kumod, "http://127.0.0.1:8000")
    golden = GOLDEN / f"{name}-{road}.txt"
    if "REWRITE_GOLDEN" in os.environ:
        golden.write_text(f"{report}exit code {result.exit_code}\n")
    assert f"{report}exit code {result.exit_code}\n" == golden.read_text()


def test_init_is_a_command_of_the_program() -> None:
    assert "init" in main.list_commands(click.Context(main))


def test_without_write_nothing_is_changed(tmp_path: Path, kumod: str) -> None:
    root = machine(tmp_path, POLICY)
    before = tree_of(root)
    assert run(root, kumod=kumod).exit_code == 3
    assert tree_of(root) == before


def test_write_creates_what_it_has_shown_and_a_second_time_nothing(
    tmp_path: Path, kumod: str
) -> None:
    root = machine(tmp_path, READY)
    env = {"etc/default/tsa-sidecar": "TSA_SIDECAR_LOG_DIR=/var/log/kumomta/fast\n"}
    write(root, env)
    assert run(root, kumod=kumod).exit_code == 3
    before = tree_of(root)
    first = run(root, "--write", kumod=kumod)
    assert first.exit_code == 0, first.output
    made = {name: mode for name, (mode, _) in tree_of(root).items() if name not in before}
    directory = str(Path(OVERLAY).parent)
    assert made == {
        directory: 0o2750,
        OVERLAY: 0o640,
        f"{directory}/suspended.json": 0o640,
        f"{directory}/bounced.json": 0o640,
    }
    for name in made:
        assert f"/{name} (mode" in first.output
    assert tomllib.loads((root / OVERLAY).read_text()) == {}
    after = tree_of(root)
    second = run(root, "--write", kumod=kumod)
    assert (second.exit_code, tree_of(root)) == (0, after)
    assert "Nothing to create" in second.output


def test_an_existing_overlay_is_never_overwritten(tmp_path: Path, kumod: str) -> None:
    root = machine(tmp_path, READY)
    write(root, {OVERLAY: '["example.com"]\nconnection_limit = 3\n'})
    result = run(root, "--write", kumod=kumod)
    assert (root / OVERLAY).read_text() == '["example.com"]\nconnection_limit = 3\n'
    assert "is valid, with 1 sections" in result.output


def test_an_overlay_that_does_not_parse_is_an_error(tmp_path: Path, kumod: str) -> None:
    root = machine(tmp_path, READY)
    write(root, {OVERLAY: "[half"})
    result = run(root, "--write", kumod=kumod)
    assert result.exit_code == 1
    assert "is not valid" in result.output


def test_a_log_that_the_sidecar_may_not_read_is_an_error(tmp_path: Path, kumod: str) -> None:
    root = machine(tmp_path, READY, uid=64_001)
    write(root, {"etc/group": "kumod:x:64002:\n"})
    (root / "var/log/kumomta").chmod(0o770)
    result = run(root, "--log-dir", "/var/log/kumomta/fast", kumod=kumod)
    assert result.exit_code == 1
    assert "tsa-sidecar may not read /var/log/kumomta\n" in result.output
    assert "usermod --append --groups kumod tsa-sidecar" in result.output


def test_a_directory_that_the_sidecar_may_not_write_is_an_error(tmp_path: Path, kumod: str) -> None:
    root = machine(tmp_path, READY, uid=64_001)
    write(root, {OVERLAY: ""})
    (root / OVERLAY).parent.chmod(0o755)
    result = run(root, kumod=kumod)
    assert result.exit_code == 1
    assert "tsa-sidecar may not write into /opt/kumomta/etc/tsa-sidecar" in result.output


def test_an_overlay_that_kumod_may_not_read_is_an_error(tmp_path: Path, kumod: str) -> None:
    root = machine(tmp_path, READY)
    write(root, {OVERLAY: "", "etc/group": "kumod:x:64002:\n"})
    (root / OVERLAY).chmod(0o600)
    result = run(root, kumod=kumod)
    assert result.exit_code == 1
    assert f"kumod may not read /{OVERLAY}" in result.output


def test_a_rule_file_that_is_not_there_is_an_error(tmp_path: Path, kumod: str) -> None:
    root = machine(tmp_path, READY)
    (root / RULES[1]).unlink()
    result = run(root, kumod=kumod)
    assert result.exit_code == 1
    assert f"/{RULES[1]} is not there" in result.output


def test_rules_that_only_kumod_knows_are_an_error_with_the_line_to_write(
    tmp_path: Path, kumod: str
) -> None:
    root = machine(tmp_path, READY)
    (root / "opt/kumomta/etc/policy/tsa_init.lua").unlink()
    result = run(root, kumod=kumod)
    assert result.exit_code == 1
    assert f'TSA_SIDECAR_SHAPING="/{RULES[0]} /{RULES[1]}"' in result.output


def test_the_overlay_among_the_rules_is_an_error(tmp_path: Path, kumod: str) -> None:
    root = machine(tmp_path, READY)
    result = run(root, "--shaping", f"/{OVERLAY}", kumod=kumod)
    assert result.exit_code == 1
    assert f"/{OVERLAY} is the overlay, not a rule file" in result.output


def test_the_services_variables_count_and_those_of_the_shell_win(
    tmp_path: Path, kumod: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = machine(tmp_path, READY)
    write(
        root,
        {
            "etc/default/tsa-sidecar": "# settings\n"
            'TSA_SIDECAR_SHAPING="https://rules.example/a.toml"\n'
            "TSA_SIDECAR_OVERLAY=/srv/overlay.toml\n"
            "TSA_SIDECAR_STATE='unbalanced\n"
        },
    )
    monkeypatch.setenv("TSA_SIDECAR_OVERLAY", "/srv/other.toml")
    result = run(root, kumod=kumod)
    assert "https://rules.example/a.toml (TSA_SIDECAR_SHAPING)" in result.output
    assert "create file /srv/other.toml" in result.output


@pytest.mark.parametrize("road", ["file", "subscribe", "lua"])
def test_every_road_keeps_the_listener_so_that_there_are_metrics(
    tmp_path: Path, kumod: str, road: str
) -> None:
    output = run(machine(tmp_path, POLICY), "--road", road, kumod=kumod).output
    assert "http://127.0.0.1:8008/ shows what is in force, and has /metrics" in output
    assert "TSA_SIDECAR_LISTEN" not in output


@pytest.mark.parametrize(
    ("road", "level"), [("file", "note"), ("lua", "note"), ("subscribe", "fail")]
)
def test_a_listener_that_was_switched_off_is_said(
    tmp_path: Path, kumod: str, road: str, level: str
) -> None:
    root = machine(tmp_path, READY)
    write(root, {"etc/default/tsa-sidecar": "TSA_SIDECAR_LISTEN=none\n"})
    output = run(root, "--road", road, kumod=kumod).output
    assert f"{level}  TSA_SIDECAR_LISTEN: none" in output
    assert "such as 127.0.0.1:8008" in output


def test_a_machine_without_kumomta_gets_the_lines_all_the_same(tmp_path: Path) -> None:
    result = run(tmp_path, kumod="http://127.0.0.1:1")
    assert result.exit_code == 1
    assert "no KumoMTA below /opt/kumomta" in result.output
    assert "kumod does not answer at http://127.0.0.1:1: Connection refused" in result.output
    assert "kumo.configure_local_logs {" in result.output
    assert "no rule files were found" in result.output


def test_kumo_tsa_daemon_on_the_same_port_is_said(tmp_path: Path, kumod: str) -> None:
    root = machine(tmp_path, READY)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "kumo-tsa-daemon.service").symlink_to("/usr/lib/systemd/system/nowhere")
    assert "systemctl disable --now kumo-tsa-daemon" in run(root, kumod=kumod).output


def test_a_policy_that_fails_is_said_without_a_traceback(tmp_path: Path, kumod: str) -> None:
    root = machine(tmp_path, READY)
    write(root, {"opt/kumomta/etc/policy/tsa_init.lua": "error 'no'"})
    result = CliRunner().invoke(Commands(commands=[init]), ["init", "--root", str(root)])
    assert result.exit_code == 1
    assert "tsa_init.lua:1" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("args", "env", "where"),
    [
        (["--overlay", "tsa/shaping.toml"], {}, "--overlay"),
        (["--log-dir", "logs"], {}, "--log-dir"),
        (["--kumomta", "kumomta"], {}, "--kumomta"),
        ([], {"TSA_SIDECAR_POLICY": "tsa_init.lua"}, "TSA_SIDECAR_POLICY"),
    ],
)
def test_a_path_that_depends_on_where_one_stands_is_refused(
    args: list[str], env: dict[str, str], where: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(
        Commands(commands=[init]), ["init", "--root", str(tmp_path), *args], env=env
    )
    assert result.exit_code == 1
    [line] = result.output.splitlines()
    assert line.startswith(f"error: {where}: ")
    assert "is relative" in line


def test_what_the_system_refuses_to_create_is_said_with_a_remedy(
    tmp_path: Path, kumod: str
) -> None:
    root = machine(tmp_path, READY)
    write(root, {"srv": "a file where a directory is needed"})
    result = CliRunner().invoke(
        Commands(commands=[init]),
        ["init", "--root", str(root), "--overlay", "/srv/x/shaping.toml", "--write"],
    )
    assert result.exit_code == 1
    assert "/srv/x" in result.output
    assert "Traceback" not in result.output
