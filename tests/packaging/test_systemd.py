"""The unit and its environment file."""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from sidecar.settings import SETTINGS, environment_file, resolve_settings, setting

PACKAGING = Path(__file__).parent.parent.parent / "packaging"
UNIT = PACKAGING / "systemd" / "tsa-sidecar.service"
ENVIRONMENT = PACKAGING / "systemd" / "tsa-sidecar.env"


class _Unit(configparser.RawConfigParser):
    """A unit file; of a setting that is said more than once, the last counts."""

    def __init__(self) -> None:
        super().__init__(delimiters=("=",), strict=False, interpolation=None)

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def service() -> dict[str, str]:
    unit = _Unit()
    unit.read_string(UNIT.read_text())
    return dict(unit["Service"])


def test_the_environment_file_is_the_one_that_the_settings_make() -> None:
    assert ENVIRONMENT.read_text() == environment_file(), "packaging/build-generated writes it anew"


def test_every_line_of_the_environment_file_is_a_setting_when_uncommented() -> None:
    lines = re.findall(r"^#(TSA_SIDECAR_\w+)=(.*)$", ENVIRONMENT.read_text(), re.MULTILINE)
    assert [name for name, _ in lines] == [row.variable for row in SETTINGS]
    env = {name: value.strip('"') for name, value in lines}
    settled = resolve_settings({}, env, None, require=())
    assert settled.origins["overlay"].text == "TSA_SIDECAR_OVERLAY"
    assert settled.warnings == ()


def test_the_unit_writes_only_where_the_defaults_write() -> None:
    values = service()
    assert values["ProtectSystem"] == "strict"
    overlay, state = setting("overlay").default, setting("state").default
    assert values["ReadWritePaths"] == f"-{Path(str(overlay)).parent}"
    assert f"/var/lib/{values['StateDirectory']}" == str(Path(str(state)).parent)


def test_the_unit_reads_kumods_logs_by_group_and_needs_no_privilege() -> None:
    values = service()
    assert values["User"] == "tsa-sidecar"
    assert values["SupplementaryGroups"] == "kumod"
    assert values["CapabilityBoundingSet"] == ""
    assert values["NoNewPrivileges"] == "yes"


def test_the_unit_waits_for_readiness_and_watches_it() -> None:
    values = service()
    assert (values["Type"], values["NotifyAccess"]) == ("notify", "main")
    assert int(values["WatchdogSec"]) > 0
    assert values["Restart"] == "on-failure"


def test_the_unit_keeps_what_its_exposure_of_1_4_rests_on() -> None:
    # packaging/smoke-test asks systemd-analyze itself, which not every machine has.
    values = service()
    yes = {
        "LockPersonality",
        "MemoryDenyWriteExecute",
        "NoNewPrivileges",
        "PrivateDevices",
        "PrivateTmp",
        "ProtectClock",
        "ProtectControlGroups",
        "ProtectHome",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "ProtectKernelTunables",
        "RemoveIPC",
        "RestrictNamespaces",
        "RestrictRealtime",
        "RestrictSUIDSGID",
    }
    assert {name for name in yes if values.get(name) == "yes"} == yes
    assert values["SystemCallArchitectures"] == "native"
    assert values["RestrictAddressFamilies"] == "AF_UNIX AF_INET AF_INET6"
    filters = re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert filters == ["@system-service", "~@privileged @resources", "@chown"]
    assert "MemoryMax" in values
