"""The MX of the domains that a decision turns on: candidates in, answers out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sidecar.automation.matching import Candidate
from sidecar.shaping.mx import MxAnswer, MxError, Resolver


async def resolve_all(candidates: Iterable[Candidate], resolver: Resolver) -> dict[str, MxAnswer]:
    """The MX of every candidate's domain that needs one, asked for at once, by domain.

    A domain that does not resolve is left out: its provider rules do not apply.
    """
    domains = sorted({c.domain for c in candidates if c.needs_mx})
    answers: dict[str, MxAnswer] = {}
    unknown: list[str] = []
    for domain in domains:
        try:
            known = resolver.recall(domain)
        except MxError:
            continue
        if known is None:
            unknown.append(domain)
        else:
            answers[domain] = known
    asked = await asyncio.gather(*(_resolve(domain, resolver) for domain in unknown))
    answers |= {d: answer for d, answer in zip(unknown, asked, strict=True) if answer is not None}
    return answers


async def _resolve(domain: str, resolver: Resolver) -> MxAnswer | None:
    try:
        return await resolver.resolve(domain)
    except MxError:
        return None
