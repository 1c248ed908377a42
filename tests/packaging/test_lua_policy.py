"""packaging/lua/init-*.lua: what kumod does with the lines that it is to be given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lupa.lua54
import pytest

from sidecar.automation.overlay import Overlay
from sidecar.installation.actions import empty_files
from sidecar.installation.lines import ROADS, Road, Wiring, packaged_files, policy_lines, quote
from sidecar.log.record import SKIPPED_TYPES
from sidecar.settings import RECORD_TYPES, setting
from tests.packaging.kumod import LUA, Kumod

OVERLAY = str(setting("overlay").default)


def run(road: Road, **options: Any) -> Kumod:
    """A kumod that was started with the lines for `road`."""
    kumod = Kumod()
    kumod.run(policy_lines(Wiring(road=road, lua_directory=LUA, **options)))
    kumod.init()
    return kumod


def shaping(kumod: Kumod) -> dict[str, Any]:
    assert len(kumod.seen.shaping) == 1
    options: dict[str, Any] = kumod.plain(kumod.seen.shaping[1])
    return options


def test_the_packaged_files_are_the_lines_that_init_prints() -> None:
    files = packaged_files()
    assert set(files) == {p.name for p in LUA.iterdir()} - {"tsa_sidecar.lua"}
    for name, text in files.items():
        assert (LUA / name).read_text() == text, "packaging/build-generated writes it anew"


@pytest.mark.parametrize("path", sorted(LUA.iterdir()), ids=lambda path: path.name)
def test_every_lua_file_compiles(path: Path) -> None:
    lua = lupa.lua54.LuaRuntime()
    assert lua.eval("function(text) return load(text, 'file', 't') ~= nil end")(path.read_text())


@pytest.mark.parametrize("road", ROADS)
def test_no_road_publishes_the_log(road: Road) -> None:
    kumod = run(road)
    assert shaping(kumod)["publish"] == []
    assert kumod.seen.publish_set_up == 1
    assert kumod.seen.handles("get_egress_path_config")


def test_only_the_subscription_leaves_the_overlay_to_http() -> None:
    own = ["/opt/kumomta/etc/policy/shaping.toml"]
    assert shaping(run("subscribe"))["subscribe"] == ["http://127.0.0.1:8008"]
    assert shaping(run("subscribe"))["extra_files"] == own
    for road in ("file", "lua"):
        options = shaping(run(road))
        assert options["subscribe"] == []
        assert options["extra_files"] == [*own, OVERLAY]  # last, so that it wins


def test_only_the_road_without_http_starts_the_watcher() -> None:
    assert [len(run(road).seen.tasks) for road in ROADS] == [0, 0, 1]


@pytest.mark.parametrize("road", ROADS)
def test_the_sidecars_log_is_beside_the_one_that_is_kept(road: Road) -> None:
    archive, fast = run(road).seen.local_logs.values()
    assert archive.log_dir == "/var/log/kumomta"
    assert fast.log_dir != archive.log_dir
    assert fast.max_segment_duration == "1s"


def test_the_sidecars_log_holds_what_rules_may_see_except_deliveries() -> None:
    kumod = run("file")
    per_record = kumod.plain(kumod.seen.local_logs[2].per_record)
    enabled = {name for name, params in per_record.items() if params["enable"]}
    assert enabled == RECORD_TYPES - SKIPPED_TYPES - {"Delivery"}
    assert per_record["Any"] == {"enable": False}


def test_a_site_without_rules_of_its_own_names_only_the_overlay() -> None:
    assert shaping(run("file", extra_files=()))["extra_files"] == [OVERLAY]
    assert "extra_files" not in shaping(run("subscribe", extra_files=()))


@pytest.mark.parametrize("text", ["", "it's", "back\\slash", "two\nlines", "\0", "ü'\\'"])
def test_any_path_can_be_quoted(text: str) -> None:
    assert lupa.lua54.LuaRuntime().eval(quote(text)) == text


def test_the_watcher_is_content_with_the_empty_files_that_are_installed(tmp_path: Path) -> None:
    overlay = tmp_path / "shaping.toml"
    for path, content in empty_files(overlay).items():
        path.write_bytes(content)
    kumod = run("lua", overlay=overlay)
    look = kumod.task()
    assert look() == 1
    assert kumod.log("error") == []
    assert overlay.read_text() == Overlay().text()
