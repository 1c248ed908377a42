"""State as JSON: all of it and the same again; a bad item costs itself."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.automation.entries import Override, SchedQBounce, to_payload
from sidecar.problems import ProblemError
from sidecar.store import EntryRow, Saved, Store
from sidecar.store.transfer import export_state, import_state

from .samples import checkpoint

FILE = "backup.json"


def rows() -> dict[str, EntryRow]:
    override = Override("a" * 64, "ip1->x", "why", 2**62, 3, "ä.example", True, "ip1", "o", [1])
    bounce = SchedQBounce("b" * 64, "ip1->x", "wh\udc80y\n", 2**70, 4, "b.example", None, "c")
    return {
        entry.key: EntryRow(entry.key, entry.kind, to_payload(entry), entry.expires_ns, entry.seq)
        for entry in (override, bounce)
    }


def sample() -> Saved:
    return Saved(
        checkpoints={
            "20261122-160000": checkpoint(12, done=True),
            "bad\udcffname": replace(checkpoint(3), inode=2**64 - 1),
        },
        entries=rows(),
        threshold_counts={("3600 r s", 1_795_000_000): 3, ("3600 r s", 1_795_000_001): 1},
        mx={"example.com": '{"hosts":["mx.example.com."]}', "odd.example": "no JSON"},
        counters={"lines": 2**60, "bad lines": 0},
        kumod_ids={"entry": "id"},
        waiting={10: '{"number":10}', 2: '{"number":2}'},
        outbox={"event oncall 1": '{"id":"a"}'},
        meta={"seq": "4"},
    )


def through_json(document: object) -> Any:
    return json.loads(json.dumps(document))


def test_what_is_exported_is_imported() -> None:
    saved = sample()
    assert import_state(through_json(export_state(saved)), file=FILE) == (saved, ())


def test_what_is_imported_can_be_stored() -> None:
    saved, _ = import_state(through_json(export_state(sample())), file=FILE)
    with Store.open(":memory:") as store:
        store.commit(saved.as_transaction())
        assert store.load() == saved == sample()


def test_the_same_state_is_the_same_text() -> None:
    saved = sample()
    shuffled = Saved(
        checkpoints=dict(reversed(saved.checkpoints.items())),
        entries=dict(reversed(saved.entries.items())),
        threshold_counts=dict(reversed(saved.threshold_counts.items())),
        mx=dict(reversed(saved.mx.items())),
        counters=dict(reversed(saved.counters.items())),
        kumod_ids=saved.kumod_ids,
        waiting=dict(reversed(saved.waiting.items())),
        outbox=saved.outbox,
        meta=saved.meta,
    )
    assert json.dumps(export_state(shuffled)) == json.dumps(export_state(saved))


def test_an_export_of_nothing_is_imported_as_nothing() -> None:
    assert import_state(export_state(Saved()), file=FILE) == (Saved(), ())


@pytest.mark.parametrize("section", ["waiting", "outbox"])
def test_a_document_of_an_earlier_version_is_imported(section: str) -> None:
    saved = replace(sample(), **{section: {}})
    document = export_state(saved)
    del document[section]
    assert import_state(document, file=FILE) == (saved, ())


@pytest.mark.parametrize("document", [None, [], 3, "x", {}, {"format": "other", "version": 1}])
def test_other_documents_are_refused(document: object) -> None:
    with pytest.raises(ProblemError, match=r"backup\.json: is no state .*--from-tsa-daemon"):
        import_state(document, file=FILE)


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(ProblemError, match="newer tsa-sidecar"):
        import_state(export_state(Saved()) | {"version": 2}, file=FILE)
    for version in (None, 0, "1", 1.5):
        with pytest.raises(ProblemError, match="version"):
            import_state(export_state(Saved()) | {"version": version}, file=FILE)


@pytest.mark.parametrize(
    ("section", "key", "value", "where"),
    [
        ("meta", "seq", 4, "meta: seq"),
        ("counters", "lines", -1, "counters: lines"),
        ("counters", "lines", 2**63, "counters: lines"),
        ("counters", "lines", True, "counters: lines"),
        ("kumod_ids", "entry", None, "kumod_ids: entry"),
        ("segments", "20261122-160000", {"inode": 1}, "segments: 20261122-160000"),
        ("segments", "20261122-160000", [], "segments: 20261122-160000"),
        ("waiting", "7th", {}, "waiting: 7th"),
        ("thresholds", "3600 r s", [1], "thresholds: 3600 r s"),
        ("thresholds", "3600 r s", {"noon": 1}, "thresholds: 3600 r s"),
        ("thresholds", "3600 r s", {"1": "1"}, "thresholds: 3600 r s"),
        ("thresholds", "3600 r s", {"9" * 5000: 1}, "thresholds: 3600 r s"),
    ],
)
def test_a_bad_item_is_listed_and_left_out(
    section: str, key: str, value: object, where: str
) -> None:
    document = through_json(export_state(sample()))
    good = copy.deepcopy(document)
    document[section][key] = value
    good[section].pop(key, None)
    saved, (problem,) = import_state(document, file=FILE)
    assert saved == import_state(good, file=FILE)[0]
    assert (problem.level, problem.file, problem.where) == ("warning", FILE, where)
    assert problem.message.startswith("left out: ")


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "unknown"},
        {"key": "another"},
        {"seq": 99},
        {"seq": -1},
        {"expires_ns": 1},
        {"entry": {}},
        {"entry": "no JSON"},
        {"entry": "[" * 100_000},
        {"more": 1},
    ],
)
def test_a_bad_entry_is_listed_and_left_out(change: dict[str, object]) -> None:
    document = through_json(export_state(sample()))
    document["entries"][0] |= change
    saved, (problem,) = import_state(document, file=FILE)
    assert [row.kind for row in saved.entries.values()] == ["bounce"]
    assert problem.where == "entries: item 1"


def test_unknown_and_missing_sections_are_listed() -> None:
    document = through_json(export_state(sample()))
    document["more"] = document.pop("mx")
    saved, problems = import_state(document, file=FILE)
    assert [problem.where for problem in problems] == ["more", "mx"]
    assert saved == replace(sample(), mx={})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(json_values, st.data())
def test_whatever_stands_anywhere_the_rest_is_imported_and_can_be_stored(
    value: object, data: st.DataObject
) -> None:
    document = through_json(export_state(sample()))
    section = data.draw(st.sampled_from(sorted(document.keys() - {"format", "version"})))
    target = document[section]
    if isinstance(target, list):
        target[data.draw(st.integers(0, len(target) - 1))] = value
    else:
        target[data.draw(st.sampled_from([*target, "new"]))] = value
    saved, _ = import_state(document, file=FILE)
    with Store.open(":memory:") as store:
        store.commit(saved.as_transaction())
        assert store.load() == saved
