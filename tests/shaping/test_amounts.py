"""Options as numbers: more is more, and back to something that kumod takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.shaping.amounts import MEASURED, amount, by_default, setting
from sidecar.shaping.options import SCHEMA, check_option
from sidecar.shaping.rules import TomlValue

likes = st.one_of(
    st.tuples(
        st.sampled_from(
            sorted(n for n in MEASURED if n.startswith(("max_message", "max_connection", "source")))
        ),
        st.builds(
            lambda local, n, unit, burst: f"{local}{n}/{unit}{burst}",
            st.sampled_from(["", "local:"]),
            st.integers(1, 10**6),
            st.sampled_from(["s", "10s", "min", "h", "d", "3d"]),
            st.sampled_from(["", ",max_burst=3"]),
        ),
    ),
    st.tuples(st.just("connection_limit"), st.one_of(st.integers(1, 10**6), st.just("local:7"))),
    st.tuples(st.sampled_from(["max_ready", "max_deliveries_per_connection"]), st.integers(1, 999)),
)

LEAST = ("1", "1/")


@given(likes, st.floats(1e-9, 1e7))
def test_what_comes_back_is_taken_by_kumod_and_lets_no_more_through(
    like: tuple[str, TomlValue], number: float
) -> None:
    name, model = like
    value = setting(name, number, model)
    assert check_option(name, value) == []
    is_least = value == 1 or (isinstance(value, str) and value.removeprefix("local:")[:2] in LEAST)
    assert is_least or amount(name, value) <= number * (1 + 1e-3)


@given(likes, st.floats(0.2, 1))
def test_little_is_lost_by_rounding(like: tuple[str, TomlValue], share: float) -> None:
    name, model = like
    number = amount(name, model) * share
    found = amount(name, setting(name, number, model))
    assert found >= number * 0.9 - 1


@given(likes)
def test_a_value_is_its_own_amount(like: tuple[str, TomlValue]) -> None:
    name, model = like
    assert amount(name, setting(name, amount(name, model), model)) == pytest.approx(
        amount(name, model)
    )


@pytest.mark.parametrize(
    ("number", "like", "value"),
    [
        (700 / 60, "1000/min", "700/m"),
        (699.99 / 60, "1,000/min", "699/m"),
        (1 / 60, "1000/min", "1/m"),
        (3.5, "5/s", "210/m,max_burst=3"),
        (2.5 / 60, "local:1000/min", "local:150/h,max_burst=2"),
        (0.7 / 3600, "10/h", "16/d,max_burst=1"),
        (5, "10/s,max_burst=20", "5/s,max_burst=5"),
    ],
)
def test_a_rate_keeps_its_period_unless_it_is_too_coarse(
    number: float, like: str, value: str
) -> None:
    assert setting("max_message_rate", number, like) == value


def test_a_limit_stays_local_and_a_count_whole() -> None:
    assert setting("connection_limit", 7.9, "local:10") == "local:7"
    assert setting("connection_limit", 0.4, 10) == 1
    assert setting("max_ready", 512.0, 1024) == 512


def test_what_is_no_number_of_anything_is_refused() -> None:
    with pytest.raises(ValueError, match="smtp_port"):
        amount("smtp_port", 25)
    with pytest.raises(ValueError, match="no throttle"):
        amount("max_message_rate", 25)


def test_every_measured_option_exists_and_kumod_has_defaults_for_the_counts() -> None:
    assert SCHEMA.keys() >= MEASURED
    assert by_default("connection_limit") == 32
    assert by_default("max_ready") == 1024
    assert by_default("max_message_rate") is None
    assert by_default("smtp_port") is None
