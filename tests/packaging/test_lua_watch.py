"""packaging/lua/tsa_sidecar.lua: what kumod is told when the sidecar's files change."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import lupa.lua54
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.packaging.kumod import Kumod

NOW = 1_795_000_000
QUEUE = "ip1->(mx1|mx2).example.com@smtp_client"


def at(seconds: float) -> str:
    """A time so many seconds after NOW, as the sidecar writes it."""
    return datetime.fromtimestamp(NOW + seconds, UTC).isoformat()


def ready(expires: str, *, queue: str = QUEUE, rule: str = "r1") -> dict[str, Any]:
    return {
        "rule_hash": rule,
        "site_name": queue,
        "reason": "automation rule: busy",
        "source": "ip1",
        "expires": expires,
    }


def sched(expires: str, *, rule: str = "r1", **queue: str | None) -> dict[str, Any]:
    names = {"tenant": None, "domain": "example.com", "campaign": None} | queue
    return {"rule_hash": rule, "reason": "automation rule: full", "expires": expires, **names}


class Site:
    """A directory of the sidecar's files, watched by a kumod."""

    def __init__(self, directory: Path, *, null: object = None, options: str = "") -> None:
        self.directory = directory
        self.kumod = Kumod(now=NOW, null=null)
        self.kumod.run(
            "local kumo, sidecar = require 'kumo', require 'tsa_sidecar'\n"
            "kumo.on('init', function()\n"
            f"  sidecar.watch {{ directory = '{directory}', {options} }}\n"
            "end)"
        )
        self.kumod.init()
        self.look: Callable[[], float | None] = self.kumod.task()

    def write(self, name: str, value: object) -> None:
        text = value if isinstance(value, str) else json.dumps(value)
        (self.directory / name).write_text(text)

    def suspend(self, *ready_q: object, sched_q: list[Any] | None = None) -> None:
        self.write("suspended.json", {"ready_q": list(ready_q), "sched_q": sched_q or []})

    def bounce(self, *entries: object) -> None:
        self.write("bounced.json", list(entries))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Empty files, seen once by a kumod."""
    site = Site(tmp_path)
    site.suspend()
    site.bounce()
    site.write("shaping.toml", "# Number of entries: 0\n")
    assert site.look() == 1
    assert site.kumod.calls == []
    assert site.kumod.log("error") == []
    return site


def test_the_task_gets_the_defaults_that_the_package_uses() -> None:
    kumod = Kumod()
    kumod.run("require('kumo').on('init', function() require('tsa_sidecar').watch() end)")
    kumod.init()
    assert kumod.plain(kumod.seen.tasks[1].args) == [
        {
            "directory": "/opt/kumomta/etc/tsa-sidecar",
            "interval": 1,
            "overlay": "shaping.toml",
        }
    ]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("{ folder = '/x' }", "unknown option folder"),
        ("{ directory = 1 }", "directory must be a string"),
        ("{ interval = '1s' }", "interval must be a number"),
        ("{ interval = 0 }", "interval must be more than 0"),
        ("{ interval = 0/0 }", "interval must be more than 0"),
        ("{ overlay = true }", "overlay must be a string"),
    ],
)
def test_a_wrong_option_is_said_when_the_policy_is_loaded(options: str, reason: str) -> None:
    kumod = Kumod()
    with pytest.raises(lupa.lua54.LuaError, match=reason):
        kumod.run(f"require('tsa_sidecar').watch {options}")


def test_a_ready_queue_is_suspended_by_its_whole_name(site: Site) -> None:
    site.suspend(ready(at(3600)))
    site.look()
    assert site.kumod.calls == [
        (
            "suspend_ready_q.suspend",
            {
                "name": QUEUE,
                "reason": "automation rule: busy (rule_hash=r1)",
                "expires": at(3600),
            },
        )
    ]


def test_scheduled_queues_are_suspended_and_bounced_as_named(site: Site) -> None:
    site.suspend(sched_q=[sched(at(60), tenant="t1")])
    site.bounce(sched(at(90), tenant="t1", campaign="c1"))
    site.look()
    reason = "automation rule: full (rule_hash=r1)"
    assert site.kumod.calls == [
        (
            "suspend.suspend",
            {"domain": "example.com", "tenant": "t1", "reason": reason, "expires": at(60)},
        ),
        (
            "bounce.bounce",
            {
                "domain": "example.com",
                "tenant": "t1",
                "campaign": "c1",
                "reason": reason,
                "expires": at(90),
            },
        ),
    ]


def test_a_null_of_a_kind_of_its_own_is_no_name(tmp_path: Path) -> None:
    site = Site(tmp_path, null=object())
    site.bounce(sched(at(90)), sched(at(90), domain=None))
    site.suspend()
    site.look()
    assert site.kumod.suspended("bounce") == {"*:*@example.com": at(90)}


@pytest.mark.parametrize("domain", [None, ""])
def test_nothing_is_ever_told_without_a_domain(site: Site, domain: str | None) -> None:
    site.suspend(sched_q=[sched(at(60), domain=domain, tenant="t1")])
    site.bounce(sched(at(60), domain=domain))
    site.look()
    assert site.kumod.calls == []
    assert [line.rpartition(": ")[2] for line in site.kumod.log("error")] == [
        "an entry names no queue",
        "an entry names no queue",
    ]


def test_looking_again_tells_nothing_again(site: Site) -> None:
    site.suspend(ready(at(60)), sched_q=[sched(at(60))])
    site.bounce(sched(at(60)))
    site.look()
    assert len(site.kumod.calls) == 3
    site.look()
    site.suspend(ready(at(60)), sched_q=[sched(at(60)), sched(at(70), domain="other.example")])
    site.look()
    assert [call[1]["domain"] for call in site.kumod.calls] == ["other.example"]


def test_the_longest_of_several_entries_is_told(site: Site) -> None:
    site.suspend(
        ready(at(60), rule="r1"),
        ready(at(120.5), rule="r2"),
        ready(at(120), rule="r3"),
        sched_q=[sched(at(30), rule="r1"), sched(at(31), rule="r2")],
    )
    site.look()
    assert [(name, call["expires"]) for name, call in site.kumod.calls] == [
        ("suspend_ready_q.suspend", at(120.5)),
        ("suspend.suspend", at(31)),
    ]


def test_when_the_longest_goes_the_next_one_stands(site: Site) -> None:
    site.suspend(ready(at(60), rule="r1"), ready(at(120), rule="r2"))
    site.look()
    site.suspend(ready(at(60), rule="r1"))
    site.look()
    assert site.kumod.suspended("suspend_ready_q") == {QUEUE: at(60)}


def test_an_entry_that_leaves_early_is_taken_back(site: Site) -> None:
    site.suspend(ready(at(60)), sched_q=[sched(at(60))])
    site.bounce(sched(at(60)))
    site.look()
    assert site.kumod.calls != []
    site.suspend()
    site.bounce()
    site.look()
    assert [name for name, _ in site.kumod.calls] == [
        "suspend_ready_q.delete",
        "suspend.delete",
        "bounce.delete",
    ]
    assert site.kumod.suspended("suspend_ready_q") == {}
    assert site.kumod.suspended("suspend") == {}
    assert site.kumod.suspended("bounce") == {}


def test_an_entry_that_leaves_at_its_expiry_is_left_to_kumod(site: Site) -> None:
    site.suspend(ready(at(60)))
    site.look()
    assert len(site.kumod.calls) == 1
    site.kumod.now += 60
    site.suspend()
    site.look()
    assert site.kumod.calls == []


def test_a_new_entry_after_an_expired_one_takes_nothing_back(site: Site) -> None:
    site.suspend(ready(at(60)))
    site.look()
    site.kumod.now += 100
    site.suspend(ready(at(200)))
    site.look()
    assert [name for name, _ in site.kumod.calls] == ["suspend_ready_q.suspend"] * 2


def test_an_entry_that_is_past_is_not_told(site: Site) -> None:
    site.suspend(ready(at(-1)), ready(at(0), queue="other"))
    site.look()
    assert site.kumod.calls == []
    assert site.kumod.log("error") == []


def test_a_kumod_that_takes_nothing_back_is_said_so(site: Site) -> None:
    site.suspend(ready(at(60)))
    site.look()
    site.kumod.run("require('kumo').api.admin.suspend_ready_q.delete = nil")
    site.suspend()
    site.look()
    (line,) = site.kumod.log("error")
    assert "this kumod takes nothing back" in line


def test_a_refusal_is_logged_once_and_tried_again(site: Site) -> None:
    site.kumod.fail("suspend_ready_q.suspend", "no memory")
    site.suspend(ready(at(60)), sched_q=[sched(at(60))])
    for _ in range(3):
        assert site.look() == 1
    assert [name for name, _ in site.kumod.calls] == [
        "suspend_ready_q.suspend",
        "suspend.suspend",
        "suspend_ready_q.suspend",
        "suspend_ready_q.suspend",
    ]
    assert site.kumod.log("error") == [f"tsa_sidecar: {site.directory}/suspended.json: no memory"]
    site.kumod.fail("suspend_ready_q.suspend", None)
    site.look()
    assert site.kumod.suspended("suspend_ready_q") == {QUEUE: at(60)}


def test_a_cancel_that_fails_is_tried_again(site: Site) -> None:
    site.bounce(sched(at(60)))
    site.look()
    site.kumod.fail("bounce.delete", "not now")
    site.bounce()
    site.look()
    assert site.kumod.suspended("bounce") != {}
    site.kumod.fail("bounce.delete", None)
    site.look()
    assert site.kumod.suspended("bounce") == {}


@pytest.mark.parametrize(
    "broken",
    ["", '{"ready_q": [', "null", "3", "[]", "{}", '{"ready_q": 1, "sched_q": []}', "\0"],
)
def test_a_broken_file_changes_nothing_and_is_said_once(site: Site, broken: str) -> None:
    site.suspend(ready(at(60)))
    site.look()
    assert len(site.kumod.calls) == 1
    site.write("suspended.json", broken)
    for _ in range(3):
        assert site.look() == 1
    assert site.kumod.calls == []
    assert len(site.kumod.log("error")) == 1
    site.suspend(ready(at(90)))
    site.look()
    assert site.kumod.suspended("suspend_ready_q") == {QUEUE: at(90)}


def test_a_missing_file_changes_nothing_and_the_others_go_on(site: Site) -> None:
    site.suspend(ready(at(60)))
    site.look()
    (site.directory / "suspended.json").unlink()
    site.bounce(sched(at(60)))
    site.look()
    site.look()
    assert site.kumod.suspended("suspend_ready_q") == {QUEUE: at(60)}
    assert site.kumod.suspended("bounce") == {"*:*@example.com": at(60)}
    (line,) = site.kumod.log("error")
    assert "No such file" in line


def test_a_directory_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    site = Site(tmp_path / "later")
    assert site.look() == 1
    site.directory.mkdir()
    site.suspend(ready(at(60)))
    site.look()
    assert site.kumod.suspended("suspend_ready_q") == {QUEUE: at(60)}


def test_entries_that_make_no_sense_cost_only_themselves(site: Site) -> None:
    site.suspend(
        7,
        ready("tomorrow", queue="a"),
        ready("2026-11-18T10:00:00+0100", queue="b"),
        {"site_name": "c"},
        {"expires": at(60)},
        ready(at(60)),
    )
    site.look()
    assert list(site.kumod.suspended("suspend_ready_q")) == [QUEUE]
    assert len(site.kumod.log("error")) == 3


def test_a_kumod_without_the_admin_module_is_said_so_and_the_loop_goes_on(site: Site) -> None:
    site.kumod.run("require('kumo').api = nil")
    site.suspend(ready(at(60)))
    assert site.look() == 1
    assert site.look() == 1
    assert len(site.kumod.log("error")) == 1


def test_a_changed_overlay_is_announced_at_once(site: Site) -> None:
    assert site.kumod.seen.epochs == 0
    site.write("shaping.toml", "# Number of entries: 1\n")
    site.look()
    site.look()
    assert site.kumod.seen.epochs == 1


def test_the_overlay_can_be_left_to_kumod(tmp_path: Path) -> None:
    site = Site(tmp_path, options="overlay = false")
    for text in ("a", "b"):
        site.write("shaping.toml", text)
        site.look()
    assert site.kumod.seen.epochs == 0


def test_a_sleep_that_fails_ends_the_task_without_an_error(site: Site) -> None:
    site.kumod.run(
        "local kumo = require 'kumo'\n"
        "kumo.sleep, kumo.time = function() error 'shutting down' end, nil"
    )
    assert site.look() is None
    (line,) = site.kumod.log("error")
    assert "shutting down" in line


def test_the_older_name_of_sleep_serves_too(site: Site) -> None:
    site.kumod.run("require('kumo').time = nil")
    assert site.look() == 1


OFFSETS = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(
    st.lists(
        # Close together, so that the offsets decide; in a leap year and around its end.
        st.datetimes(datetime(2028, 2, 28), datetime(2028, 3, 1), timezones=OFFSETS)
        | st.datetimes(datetime(2027, 12, 31), datetime(2028, 1, 2), timezones=OFFSETS),
        min_size=1,
        max_size=8,
        unique_by=lambda when: when.timestamp(),
    )
)
def test_expiries_in_any_zone_compare_as_times(
    tmp_path_factory: pytest.TempPathFactory, expiries: list[datetime]
) -> None:
    site = Site(tmp_path_factory.mktemp("site"))
    site.bounce()
    site.suspend(*(ready(when.isoformat()) for when in expiries))
    site.look()
    longest = max(expiries).isoformat()
    assert site.kumod.suspended("suspend_ready_q") == {QUEUE: longest}
    assert site.kumod.log("error") == [
        f"tsa_sidecar: {site.directory}/shaping.toml: "
        f"{site.directory}/shaping.toml: No such file or directory"
    ]
