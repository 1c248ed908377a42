"""The page at ``GET /``: what is in force, and how the sidecar is, for people.

In: entries and status.  Out: HTML, and the JSON document (:func:`document`) that it
reads from the same listener.  The page changes nothing, loads nothing from
elsewhere, and runs only the script that came with it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sidecar.automation.adjusting import steps
from sidecar.automation.entries import Entry, Override, ReadyQSuspension
from sidecar.automation.episodes import Ended, Episode
from sidecar.automation.life import state_of
from sidecar.times import format_rfc3339

_TEXT_MAX = 500
ENTRIES_MAX = 1000
"""How many entries the document names; it says how many there are."""


def html() -> bytes:
    """The page."""
    return Path(__file__).with_name("page.html").read_bytes()


def policy(page: bytes) -> str:
    """The Content-Security-Policy under which `page` may do what it does, and nothing else."""
    script, style = (_hash(page, name) for name in (b"script", b"style"))
    return (
        f"default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def _hash(page: bytes, name: bytes) -> str:
    (text,) = re.findall(rb"<%b>(.*?)</%b>" % (name, name), page, re.DOTALL)
    return "sha256-" + base64.b64encode(hashlib.sha256(text).digest()).decode()


def document(
    status: Mapping[str, Any],
    entries: Iterable[tuple[Entry, Episode | None]],
    *,
    total: int,
    at_ns: int,
    ended: Iterable[Ended] = (),
) -> bytes:
    """What the page shows, as JSON.

    ``status`` is the status document; ``entries`` are in force, each with its episode
    where that is known.  ``ended``: the episodes that ended within a day.
    """
    said = {
        "at": format_rfc3339(at_ns),
        **{key: status.get(key) for key in ("version", "state", "newest_record")},
        "bytes_waiting": status.get("bytes_waiting"),
        "conditions": status.get("conditions", []),
        "in_force": [
            _entry(entry) | _story(episode) | _standing(entry, episode, at_ns)
            for entry, episode in entries
        ],
        "in_force_total": total,
        "ended": [
            _entry(one.entry)
            | _story(one.episode)
            | {"ended": format_rfc3339(one.at_ns), "how": one.how}
            for one in ended
        ],
    }
    return json.dumps(said).encode()


def _story(episode: Episode | None) -> dict[str, object]:
    if episode is None:
        return {}
    cause = episode.latest
    return {
        "id": episode.id,
        "rule": {"name": episode.name, "file": episode.file, "line": episode.line},
        "began": format_rfc3339(episode.began_ns) if episode.began_ns else None,
        "matches": episode.matches,
        "cause": cause
        and {
            "type": cause.type,
            "response": cause.response,
            "domain": cause.domain,
            "source": cause.source,
            "host": cause.host,
            "at": format_rfc3339(cause.time_ns),
        },
    }


def _standing(entry: Entry, episode: Episode | None, at_ns: int) -> dict[str, object]:
    """Its state, and what comes next."""
    shown: dict[str, object] = {"state": state_of(entry, at_ns).value}
    if not isinstance(entry, Override):
        return shown
    if entry.release and episode is not None:
        shown["deliveries"] = {"of": entry.release, "so_far": episode.delivered}
    if entry.course is not None:
        shown["baseline"] = entry.baseline
        shown["next"] = [
            {"at": format_rfc3339(step_ns), "value": value}
            for step_ns, value in steps(entry, at_ns)[:1]
        ]
    return shown


def _entry(entry: Entry) -> dict[str, object]:
    shown: dict[str, object] = {
        "kind": entry.kind,
        "site": entry.site[:_TEXT_MAX],
        "reason": entry.reason[:_TEXT_MAX],
        "expires": format_rfc3339(entry.expires_ns),
    }
    if entry.simulated:
        shown["simulated"] = True
    if isinstance(entry, Override):
        shown |= {
            "domain": entry.domain,
            "source": entry.source,
            "what": {"option": entry.name, "value": entry.value},
        }
    elif isinstance(entry, ReadyQSuspension):
        shown["source"] = entry.source
    else:
        shown |= {"domain": entry.domain, "tenant": entry.tenant, "campaign": entry.campaign}
    return shown
