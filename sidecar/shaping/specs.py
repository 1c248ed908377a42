"""Durations, throttle specs and limits, exactly as KumoMTA takes and refuses them.

In: a value from a TOML or JSON file.  Out: nanoseconds, :class:`ThrottleSpec`
or :class:`LimitSpec`.  ``ValueError`` with a reason for people where upstream
refuses the value.

Sources of the rules: KumoMTA's documentation ("Traffic Shaping", throttle
specs); the humantime notation of durations; ``conformance/duration-*.json``
and ``throttle-*.json``.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import NoReturn

from ..times import NS

U64_MAX = 2**64 - 1
"""Upstream keeps counts and seconds in 64 bits; what doesn't fit is refused."""

# Nanoseconds a unit.  A month is 30.44 days and a year 365.25: humantime's own choice.
_UNITS: dict[str, int] = {
    name: ns
    for names, ns in (
        ("ns nsec nanos", 1),
        ("us µs usec", 1_000),
        ("ms msec millis", 1_000_000),
        ("s sec secs second seconds", NS),
        ("m min mins minute minutes", 60 * NS),
        ("h hr hrs hour hours", 3_600 * NS),
        ("d day days", 86_400 * NS),
        ("w wk wks week weeks", 604_800 * NS),
        ("M month months", 2_630_016 * NS),
        ("y yr yrs year years", 31_557_600 * NS),
    )
    for name in names.split()
}
_UNITS_SHOWN = "ns, us, ms, s, min, h, days, weeks, months, years"

_PERIODS: dict[str, int] = {
    name: seconds
    for names, seconds in (
        ("s sec second", 1),
        ("m min minute", 60),
        ("h hr hour", 3_600),
        ("d day", 86_400),
    )
    for name in names.split()
}
_PERIOD_LETTERS = {1: "s", 60: "m", 3_600: "h", 86_400: "d"}

# White space as Rust's char::is_whitespace has it (Python's str.isspace also takes \x1c-\x1f).
_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
# One "1.5 hours": digits may be apart, a unit is ASCII letters or the micro sign.  Each part
# ends where its character class does, so nothing here can backtrack at length.
_TERM = re.compile(
    rf"[{_SPACE}]*(?P<whole>[0-9][0-9{_SPACE}]*)(?P<point>\.[0-9{_SPACE}]*)?(?P<unit>[a-zA-Zµ]*)"
)
_INTEGER = re.compile(r"\+?[0-9]+")


def parse_duration(value: object) -> int:
    """Nanoseconds of ``"2 hours"``, ``"1h 30m"``, ``"1.5 hours"``, or of a number of seconds.

    The units are case-sensitive (``M`` is a month, ``m`` a minute).  Raises
    ValueError for negative, endless and too long ones and any other type.
    """
    if isinstance(value, bool):
        raise ValueError(f"{_shown(value)} is no duration: {_WANTED}")
    if isinstance(value, int):
        if not 0 <= value <= U64_MAX:
            raise ValueError(f"duration {value}: a number of seconds must be 0 or more, of 64 bits")
        return value * NS
    if isinstance(value, float):
        return _from_float(value)
    if isinstance(value, str):
        return _from_text(value)
    raise ValueError(f"{_shown(value)} is no duration: {_WANTED}")


_WANTED = 'write a string such as "2 hours" or "1h 30m", or a number of seconds'


def _from_float(value: float) -> int:
    # Infinite, NaN and negative numbers make upstream panic; refused here.
    if not 0 <= value < U64_MAX:
        raise ValueError(f"duration {value}: a number of seconds must be 0 or more, and finite")
    return round(Fraction(value) * NS)


def _from_text(text: str) -> int:
    if text == "0":
        return 0
    total = 0
    position = 0
    while term := _TERM.match(text, position):
        total += _term_ns(text, term)
        if total // NS > U64_MAX:
            _too_long(text)
        position = term.end()
    rest = text[position:]
    if rest.strip(_SPACE_CHARS):
        _refuse_rest(text, rest)
    if position == 0:
        raise ValueError(f'duration {_shown(text)} is empty: write something like "2 hours"')
    return total


_SPACE_CHARS = "".join(re.findall(f"[{_SPACE}]", "".join(map(chr, range(0x3001)))))


def _term_ns(text: str, term: re.Match[str]) -> int:
    """Nanoseconds of one number with its unit; the overflow rules are humantime's."""
    digits = _digits(term["whole"])
    whole = int(digits) if len(digits) < 40 else U64_MAX + 1
    if whole > U64_MAX:
        _too_long(text)
    fraction = ""
    if term["point"] is not None:
        fraction = _digits(term["point"][1:])
        if not fraction:
            raise ValueError(f'duration {_shown(text)}: digits are missing after the "."')
    unit = term["unit"]
    if unit not in _UNITS:
        _refuse_unit(text, unit, digits)
    scale = _UNITS[unit]
    # Units below a second are counted in 64 bits of nanoseconds, the others in 64 bits of seconds.
    step = 1 if scale < NS else NS
    ns: int = whole * scale
    if ns // step > U64_MAX:
        _too_long(text)
    return ns + (_fraction_ns(text, fraction, scale) if fraction else 0)


def _fraction_ns(text: str, digits: str, scale: int) -> int:
    """The part after the point: exact, or refused ("0.5ns", "0.0001 hours")."""
    # Minutes and below are exact to the nanosecond, hours and above only to the second.
    step = 1 if scale <= 60 * NS else NS
    denominator = 10 ** min(len(digits), 20)
    product = int(digits[:20]) * (scale // step)
    if max(product, denominator) > U64_MAX:
        raise ValueError(f"duration {_shown(text)}: too many digits after the point")
    if scale == 1 or product % denominator:
        precision = "nanoseconds" if step == 1 else "seconds"
        raise ValueError(f"duration {_shown(text)}: .{digits} is no whole number of {precision}")
    return int(product // denominator) * step


def _digits(text: str) -> str:
    return "".join(c for c in text if c in "0123456789")


def _too_long(text: str) -> NoReturn:
    raise ValueError(f"duration {_shown(text)} is too long to count")


def _refuse_unit(text: str, unit: str, digits: str) -> NoReturn:
    if not unit:
        number = digits.lstrip("0") or "0"
        raise ValueError(
            f'duration {_shown(text)}: a unit is missing, write for example "{number} s"'
        )
    close = difflib.get_close_matches(unit, _UNITS, n=1, cutoff=0.6)
    hint = f' (did you mean "{close[0]}"?)' if close else f"; units are {_UNITS_SHOWN}"
    raise ValueError(f'duration {_shown(text)}: unknown unit "{unit}"{hint}')


def _refuse_rest(text: str, rest: str) -> NoReturn:
    rest = rest.strip(_SPACE_CHARS)
    word = re.match(r"[a-zA-Zµ]+", rest)
    what = (
        f'a number is missing before "{word[0]}"' if word else f"{_shown(rest[0])} does not belong"
    )
    raise ValueError(f"duration {_shown(text)}: {what}")


@dataclass(frozen=True, slots=True)
class ThrottleSpec:
    """``[local:]N/[k]UNIT[,max_burst=B]``: at most ``limit`` in ``period`` seconds."""

    limit: int
    period: int
    max_burst: int | None = None
    force_local: bool = False

    def __str__(self) -> str:
        """The canonical text, as kumod writes it: ``100/h``, ``local:5/600s,max_burst=1``."""
        letter = _PERIOD_LETTERS.get(self.period)
        period = letter if letter is not None else f"{self.period}s"
        burst = "" if self.max_burst is None else f",max_burst={self.max_burst}"
        return f"{'local:' if self.force_local else ''}{self.limit}/{period}{burst}"


@dataclass(frozen=True, slots=True)
class LimitSpec:
    """``[local:]N``."""

    limit: int
    force_local: bool = False

    def __str__(self) -> str:
        """The canonical text, as kumod writes it: ``5``, ``local:5``."""
        return f"{'local:' if self.force_local else ''}{self.limit}"


def parse_throttle(value: object) -> ThrottleSpec:
    """A throttle spec from its text; ValueError for anything else."""
    if not isinstance(value, str):
        raise ValueError(f'{_shown(value)} is no throttle: write a string such as "100/hr"')
    force_local = value.startswith("local:")
    text = value.removeprefix("local:")
    text, has_burst, burst_text = text.partition(",max_burst=")
    max_burst = _count(burst_text, value, "max_burst") if has_burst else None
    limit_text, slash, period_text = text.partition("/")
    if not slash:
        raise ValueError(f'throttle {_shown(value)} has no period: write for example "{text}/hr"')
    period = _period(period_text, value)
    limit = _count(limit_text, value, "limit")
    if limit == 0:
        raise ValueError(f"throttle {_shown(value)}: the limit must be greater than 0")
    return ThrottleSpec(limit, period, max_burst, force_local)


def _period(text: str, spec: str) -> int:
    scale_text = re.match(r"[0-9]*", text)
    assert scale_text is not None
    digits, unit = scale_text[0], text[scale_text.end() :]
    if unit not in _PERIODS:
        close = difflib.get_close_matches(unit.strip().lower(), _PERIODS, n=1, cutoff=0.5)
        hint = f'did you mean "{close[0]}"?' if close else "use s, min, hr or day"
        raise ValueError(f'throttle {_shown(spec)}: unknown period "{unit}": {hint}')
    scale = int(digits) if 0 < len(digits) < 40 else (1 if not digits else U64_MAX + 1)
    period = scale * _PERIODS[unit]
    if period > U64_MAX:
        raise ValueError(f"throttle {_shown(spec)}: the period is too long to count")
    return period


def parse_limit(value: object) -> LimitSpec:
    """A limit from an integer > 0, ``"[local:]N"``, or kumod's own ``{limit=N, force_local=B}``."""
    if isinstance(value, bool) or not isinstance(value, int | str | dict):
        raise ValueError(f'{_shown(value)} is no limit: write an integer > 0 or "local:N"')
    if isinstance(value, dict):
        return _limit_table(value)
    if isinstance(value, int):
        if not 1 <= value <= U64_MAX:
            raise ValueError(f"limit {value}: must be 1 or larger, of 64 bits")
        return LimitSpec(value)
    force_local = value.startswith("local:")
    limit = _count(value.removeprefix("local:"), value, "limit")
    if limit == 0:
        raise ValueError(f"limit {_shown(value)}: must be greater than 0")
    return LimitSpec(limit, force_local)


def _limit_table(value: dict[str, object]) -> LimitSpec:
    unknown = sorted(value.keys() - {"limit", "force_local"})
    if unknown:
        raise ValueError(f"limit: unknown key {_shown(unknown[0])}, keys are limit and force_local")
    limit, force_local = value.get("limit"), value.get("force_local", False)
    if isinstance(limit, bool) or not isinstance(limit, int) or not 0 <= limit <= U64_MAX:
        raise ValueError(f"limit: key limit must be an integer, got {_shown(limit)}")
    if not isinstance(force_local, bool):
        raise ValueError(f"limit: key force_local must be true or false, got {_shown(force_local)}")
    return LimitSpec(limit, force_local)


def _count(text: str, spec: str, what: str) -> int:
    """An unsigned number with ``_`` and ``,`` allowed inside."""
    digits = text.replace("_", "").replace(",", "")
    if _INTEGER.fullmatch(digits) is None:
        raise ValueError(f"{_shown(spec)}: {what} {_shown(text)} is no whole number")
    significant = digits.lstrip("+").lstrip("0")
    if len(significant) > 20 or int(significant or "0") > U64_MAX:
        raise ValueError(f"{_shown(spec)}: {what} {_shown(text)} is too large")
    return int(significant or "0")


def _shown(value: object) -> str:
    """A value as the file has it, shortened, on one line, whatever it holds."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = value if len(value) <= 80 else value[:77] + "..."
        return '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in text) + '"'
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "an array"
    if value is None:
        return "null"
    text = str(value) if not isinstance(value, int) or abs(value) < 10**80 else "a huge integer"
    return text if len(text) <= 80 else text[:77] + "..."


shown = _shown
