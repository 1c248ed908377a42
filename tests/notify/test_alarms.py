"""What is wrong with the service itself is told when it lasts."""

from __future__ import annotations

from sidecar.notify.alarms import Alarms

GONE = {"log-dir-unreadable": "the log directory can't be read"}


def test_what_lasts_is_told_once_and_its_end_too() -> None:
    alarms = Alarms()
    assert alarms.look(GONE, 0.0) == ({}, [])
    assert alarms.look(GONE, 59.0) == ({}, [])
    assert alarms.look(GONE, 60.0) == (GONE, [])
    assert alarms.look(GONE, 1000.0) == ({}, [])
    assert alarms.look({}, 1001.0) == ({}, [])
    assert alarms.look({}, 1061.0) == ({}, ["log-dir-unreadable"])
    assert alarms.look({}, 5000.0) == ({}, [])


def test_what_comes_and_goes_is_not_told() -> None:
    alarms = Alarms()
    for moment in range(0, 1000, 40):
        assert alarms.look(GONE, float(moment)) == ({}, [])
        assert alarms.look({}, moment + 20.0) == ({}, [])


def test_an_end_that_is_none_is_not_told() -> None:
    alarms = Alarms(GONE)
    assert alarms.look({}, 0.0) == ({}, [])
    assert alarms.look(GONE, 50.0) == ({}, [])
    assert alarms.look({}, 70.0) == ({}, [])
    assert alarms.look({}, 131.0) == ({}, ["log-dir-unreadable"])
