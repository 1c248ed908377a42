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
    answers, unknown = _recall(candidates, resolver)
    asked = await asyncio.gather(*(_resolve(domain, resolver) for domain in unknown))
    return answers | {d: mx for d, mx in zip(unknown, asked, strict=True) if mx is not None}


async def ask_for(
    candidates: Iterable[Candidate], resolver: Resolver, *, seconds: float, most: int
) -> tuple[dict[str, MxAnswer], set[str]]:
    """The same after `seconds`, and the domains that are still being asked for.

    Of those, too, there is what is known, however old.  No more than `most`
    domains are asked for; the others are as if they did not resolve.
    """
    answers, unknown = _recall(candidates, resolver)
    if not unknown:
        return answers, set()
    tasks = {d: asyncio.create_task(_resolve(d, resolver)) for d in unknown[:most]}
    if tasks:
        await asyncio.wait(tasks.values(), timeout=seconds)
    pending = {domain for domain, task in tasks.items() if not task.done()}
    for domain in unknown:
        came = domain in tasks and domain not in pending
        found = tasks[domain].result() if came else resolver.remembered(domain)
        if found is not None:
            answers[domain] = found
    for domain in pending:
        tasks[domain].cancel()  # it is still asked for: only this one does not wait for it
    return answers, pending


def known(domain: str, resolver: Resolver) -> MxAnswer | None:
    """The MX of `domain` without asking, however old; None where nothing is known."""
    try:
        answer = resolver.recall(domain)
    except MxError:
        return None
    return resolver.remembered(domain) if answer is None else answer


def _recall(
    candidates: Iterable[Candidate], resolver: Resolver
) -> tuple[dict[str, MxAnswer], list[str]]:
    """What is known of the domains, and those that must be asked for."""
    domains = sorted({c.domain for c in candidates if c.needs_mx})
    answers: dict[str, MxAnswer] = {}
    unknown: list[str] = []
    for domain in domains:
        try:
            found = resolver.recall(domain)
        except MxError:
            continue
        if found is None:
            unknown.append(domain)
        else:
            answers[domain] = found
    return answers, unknown


async def _resolve(domain: str, resolver: Resolver) -> MxAnswer | None:
    try:
        return await resolver.resolve(domain)
    except MxError:
        return None
