"""Entries in words."""

from __future__ import annotations

from sidecar.automation.entries import SchedQSuspension
from sidecar.tools.text import distinct, shown_entry


def suspension(source: str) -> SchedQSuspension:
    return SchedQSuspension(
        action_hash="",
        site=f"{source}->mx.one.example@smtp_client",
        reason="",
        expires_ns=0,
        seq=0,
        domain="one.example",
        tenant="shop",
        campaign=None,
    )


def told(*sources: str) -> list[str]:
    entries = [suspension(source) for source in sources]
    return distinct(entries, map(shown_entry, entries))


def test_what_is_alike_names_the_ready_queue_it_came_about_in() -> None:
    one, other = told("ip1", "ip2")
    assert one.endswith(
        'tenant "shop", by a response in ready queue ip1->mx.one.example@smtp_client'
    )
    assert "ip2->" in other


def test_episodes_of_one_entry_name_none() -> None:
    assert told("ip1", "ip1") == [shown_entry(suspension("ip1"))] * 2
