"""What holds where a suspension ends (``sidecar.probe``), and what deliveries prove.

In: a suspension, the rule's probe, what the files set; an entry, its story and a
delivery.  Out: the limits for the time after the suspension; whether the delivery counts.

kumod takes some time to notice a new overlay.  Limits that came only when the suspension
ends would leave a gap in which all mail that has waited rushes out.  So they are made
together with it.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from sidecar.shaping.amounts import MEASURED, amount, by_default
from sidecar.shaping.load import Shaping
from sidecar.shaping.mx import MxAnswer
from sidecar.shaping.rules import Probe, TomlValue
from sidecar.times import NS

from .address import site_name
from .entries import Entry, Override, Probing, ReadyQSuspension
from .episodes import Episode
from .life import IS_PROVABLE, state_of


def limits(
    suspension: ReadyQSuspension, probe: Probe, domain: str, shaping: Shaping, mx: MxAnswer | None
) -> Iterator[Override]:
    """The limits for the time after `suspension`, their times and number left open (0).

    They are for the whole site, as a ready queue is.  `domain` is the recipient's.  What
    would let more through than the files do is left out.
    """
    for name, value in probe.limits:
        limit = Override(
            action_hash=suspension.action_hash,
            site=suspension.site,
            reason=f"{suspension.reason} (after its suspension)",
            expires_ns=0,
            seq=0,
            simulated=suspension.simulated,
            domain=domain,
            mx_rollup=True,
            source=suspension.source,
            name=name,
            value=value,
            release=probe.deliveries,
            probe=Probing(suspension.key, 0),
        )
        if limits_something(limit, shaping, mx):
            yield limit


def limits_something(limit: Override, shaping: Shaping, mx: MxAnswer | None) -> bool:
    """Whether `limit` is below all that the files may set there."""
    ours = amount(limit.name, limit.value)
    return all(ours < amount(limit.name, value) for value in _set_there(limit, shaping, mx))


def _set_there(limit: Override, shaping: Shaping, mx: MxAnswer | None) -> Iterator[TomlValue]:
    """What the files set, else kumod's own default.

    Without the MX also what those providers set to which the domain may belong.
    """
    site = site_name(limit.site, limit.source)
    found = shaping.egress_path(limit.domain, limit.source, site, mx).get(limit.name)
    value = by_default(limit.name) if found is None else found.value
    if value is not None:
        yield value
    if mx is not None:
        return
    for provider in shaping.providers.values():
        if shaping.needs_mx(provider, limit.domain):
            for options in (provider.options, provider.sources.get(limit.source, {})):
                if limit.name in options:
                    yield options[limit.name].value


def limit_keys(suspension: Entry) -> list[str]:
    """The keys that limits for the time after `suspension` have, those of other entries too."""
    if not isinstance(suspension, ReadyQSuspension):
        return []
    any_limit = Override(
        action_hash=suspension.action_hash,
        site=suspension.site,
        reason="",
        expires_ns=0,
        seq=0,
        domain="",
        mx_rollup=True,
        source=suspension.source,
        name="",
        value="",
        probe=Probing(suspension.key, 0),
    )
    return [replace(any_limit, name=name).key for name in sorted(MEASURED)]


def proves(entry: Override, story: Episode, second: int) -> bool:
    """Whether a delivery in that second helps to prove that mail gets through.

    One that may have been before the latest match proves nothing.  Of a delivery and a
    match of the same second so the match counts, whichever the log has first.
    """
    at_ns = second * NS
    in_time = story.struck_ns < at_ns < entry.expires_ns
    return in_time and state_of(entry, at_ns) in IS_PROVABLE
