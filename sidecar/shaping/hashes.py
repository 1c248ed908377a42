"""The hashes by which KumoMTA's own daemon tells rules and actions apart, exactly.

In: a rule, and one of its actions.  Out: the ``rule_hash`` that kumo-tsa-daemon
would give them in its answers and keeps in its state file, so that state taken
over from it goes on belonging to the same rules.  A rule whose table ``sidecar``
changes what it does (:meth:`~.rules.SidecarTable.deciding`) is none that the
daemon knows: those keys are hashed behind the rest.

The daemon feeds a rule's fields to SHA-256 through Rust's derived ``Hash``.
What that writes, on the 64-bit little-endian machines KumoMTA is built for: a
string as its UTF-8 and a byte 0xff; a list as its length in 8 bytes, then its
items; an enum as its variant's number in 8 bytes, then its content; a duration
as 8 bytes of seconds and 4 of nanoseconds; other integers in 8 bytes and
booleans in 1.  An option's value is hashed without its type or length.  Not
documented anywhere, but shown by recordings: tests/shaping/test_hashes.py.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from typing import TYPE_CHECKING

from sidecar.shaping.specs import parse_throttle
from sidecar.times import NS

if TYPE_CHECKING:
    from sidecar.shaping.rules import Action, Rule, SidecarTable, Threshold, TomlValue

_VARIANTS = {
    "Suspend": 0,
    "SetConfig": 1,
    "SuspendTenant": 2,
    "SuspendCampaign": 3,
    "SetDomainConfig": 4,
    "Bounce": 5,
    "BounceTenant": 6,
    "BounceCampaign": 7,
}
"""The number of each action among the daemon's."""

_U64 = (1 << 64) - 1


def hashed(rule: Rule) -> Rule:
    """`rule` with its :attr:`Rule.hash`: as upstream, a rule is its content.

    Two rules that say the same share thresholds and entries, wherever they
    stand, and go on sharing them across files and restarts.
    """
    return replace(rule, hash=rule_hash(rule))


def rule_hash(rule: Rule) -> str:
    """The daemon's hash of `rule` (64 hex digits): the key of its event history."""
    return hashlib.sha256(_rule(rule)).hexdigest()


def action_hash(rule: Rule, action: Action) -> str:
    """The daemon's hash of one action of `rule` (64 hex digits): ``rule_hash`` in its answers."""
    return hashlib.sha256(_rule(rule) + _action(action)).hexdigest()


def _rule(rule: Rule) -> bytes:
    seconds, nanoseconds = divmod(rule.duration_ns, NS)
    return b"".join(
        (
            _u64(len(rule.regexes)),
            *(_text(pattern.source) for pattern in rule.regexes),
            _u64(len(rule.actions)),
            *(_action(action) for action in rule.actions),
            _u64(0) if rule.trigger is None else _u64(1) + _threshold(rule.trigger),
            _u64(seconds),
            struct.pack("<I", nanoseconds),
            bytes((rule.rollup, rule.match_internal)),
            _deciding(rule.sidecar),
        )
    )


def _deciding(table: SidecarTable) -> bytes:
    keys = table.deciding()
    return _text("sidecar") + _text(json.dumps(keys, sort_keys=True)) if keys else b""


def _action(action: Action) -> bytes:
    variant = _u64(_VARIANTS[action.kind])
    if action.option is None:
        return variant
    return variant + _text(action.option) + _value(action.value)


def _threshold(trigger: Threshold) -> bytes:
    spec = parse_throttle(trigger.spec)
    return b"".join(
        (
            _u64(trigger.limit),
            _u64(trigger.period),
            _u64(0) if spec.max_burst is None else _u64(1) + _u64(spec.max_burst),
            bytes((spec.force_local,)),
        )
    )


def _value(value: TomlValue) -> bytes:
    if isinstance(value, bool):
        return bytes((value,))
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, int):
        return _u64(value)
    if isinstance(value, float):
        return _u64(8) + struct.pack("<d", value)
    if isinstance(value, list):
        return b"".join(_value(item) for item in value)
    return b"".join(_text(name) + _value(item) for name, item in value.items())


def _text(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass") + b"\xff"


def _u64(number: int) -> bytes:
    return (number & _U64).to_bytes(8, "little")
