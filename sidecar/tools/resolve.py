"""The egress path of a domain: every option in effect, and where it came from.

In: merged shaping files (the overlay among them), a domain, a source, the MX.
Out: a :class:`Resolution`.  The counterpart of upstream's
``resolve-shaping-domain``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sidecar.automation.address import site_name
from sidecar.shaping.load import Shaping
from sidecar.shaping.mx import MxAnswer, MxError
from sidecar.shaping.names import is_name
from sidecar.shaping.options import Option


@dataclass(frozen=True, slots=True)
class Resolution:
    """What holds for mail to ``domain`` from ``source`` at the site ``site`` ("": none).

    ``providers`` are those that the domain belongs to; ``overlay`` the overlay
    file that is counted in, if any.
    """

    domain: str
    source: str
    site: str
    mx: MxAnswer | MxError
    providers: tuple[str, ...]
    options: Mapping[str, Option]
    overlay: str | None = None

    def document(self) -> dict[str, Any]:
        """As JSON-able values, in the form of ``resolve --json``."""
        return {
            "domain": self.domain,
            "source": self.source,
            "site_name": self.site,
            "mx": list(self.mx.hosts) if isinstance(self.mx, MxAnswer) else None,
            "mx_error": self.mx.reason if isinstance(self.mx, MxError) else None,
            "providers": list(self.providers),
            "overlay": self.overlay,
            "egress_path": {name: option.value for name, option in self.options.items()},
            "options": {name: _option(option) for name, option in self.options.items()},
        }


def _option(option: Option) -> dict[str, Any]:
    result = {
        "value": option.value,
        "file": option.file,
        "line": option.line,
        "scope": option.scope,
    }
    if option.inner:
        # The entries of a table may come from as many places.
        result["entries"] = {key: _option(inner) for key, inner in option.inner.items()}
    return result


def resolve(
    shaping: Shaping,
    *,
    domain: str,
    source: str,
    site: str | None,
    mx: MxAnswer | MxError,
    overlay: str | None = None,
) -> Resolution:
    """Work out the egress path.

    `site` None takes the one that the MX hosts make; the name of a ready queue
    stands for the site in it.
    """
    answer = mx if isinstance(mx, MxAnswer) else None
    if site is None:
        site = "" if answer is None else answer.site_name
    site = site_name(site, source)
    options = shaping.egress_path(domain, source, site, answer)
    return Resolution(
        domain=domain,
        source=source,
        site=site,
        mx=mx,
        providers=tuple(
            name
            for name, provider in shaping.providers.items()
            if is_name(domain) and shaping.provider_matches(provider, domain, answer)
        ),
        options=dict(sorted(options.items())),
        overlay=overlay,
    )
