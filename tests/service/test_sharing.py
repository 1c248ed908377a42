"""The pieces of sharing: places as rows, cut blocks, late words, the table of hosts."""

from __future__ import annotations

import asyncio
import errno
import io
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.automation.decide import Automation
from sidecar.automation.entries import Override
from sidecar.automation.group import GroupAutomation
from sidecar.automation.selection import Selection
from sidecar.cli.hosts import describe_hosts
from sidecar.log.blocks import Block, Position
from sidecar.problems import ProblemError
from sidecar.service.logging import Log
from sidecar.service.orders import Order
from sidecar.service.places import (
    WORD,
    mark_rows,
    place_of,
    place_rows,
    sources_of,
    sources_row,
    watermark_rows,
)
from sidecar.service.sharing import Sharing, _cut, _marks, _slices, share_settings
from sidecar.service.state import restore, transaction
from sidecar.service.takeover import put_in_place
from sidecar.service.words import Word, is_old, obey, order, word_from_json
from sidecar.settings import resolve_settings
from sidecar.share import Batch, Kind, Mark, Place, Received
from sidecar.share.health import Counts, Health
from sidecar.share.items import WORDS
from sidecar.share.outgoing import Behind
from sidecar.share.place import Watermark
from sidecar.store import Saved, Store, Transaction, read_saved
from sidecar.store.transfer import export_state, import_state
from sidecar.times import NS
from tests.automation.test_group import NOW, found, in_force


def saved_with(changes: Transaction) -> Saved:
    """The state file that has just these changes."""
    saved = Saved()
    saved.meta.update(changes.meta)
    saved.entries.update(changes.entries)
    saved.threshold_counts.update(changes.threshold_counts)
    return saved


origins = st.tuples(st.text(), st.text(), st.sampled_from(["line", "attempts", "word"]))
marks = st.builds(Mark, st.integers(0, 2**50), st.integers(0, 2**50))


@given(st.dictionaries(origins, marks, max_size=5), st.text(), st.integers(0, 2**50))
def test_a_place_survives_the_state_file(known: dict[Any, Mark], epoch: str, number: int) -> None:
    place = Place(epoch, "run", "17-4", number, known)
    changes = place_rows(place)
    changes.add(mark_rows(known))
    assert place_of(changes.meta) == place


def test_names_of_segments_need_not_be_unicode() -> None:
    place = Place("e", "r", "17-4", 1, {("mx2", "\udcff", "line"): Mark(3, 4)})
    place.watermarks["mx2"] = Watermark("\udcfe", 5)
    changes = place_rows(place)
    changes.add(mark_rows(place.marks))
    changes.add(watermark_rows(place.watermarks))
    assert place_of(changes.meta) == place


def test_a_damaged_place_is_one_at_the_beginning() -> None:
    rows = {"share:place": "?", "share:mark:?": "[1,2]", 'share:mark:["h","s","line"]': "1"}
    assert place_of(rows) == Place()
    assert sources_of({"share:sources": "?"}) == []


def test_an_export_has_what_was_heard_and_leaves_out_what_is_one_hosts() -> None:
    place = Place("epoch", "run", "1-1", 1, {("mx2", "s", "line"): Mark(3, 1)})
    changes = place_rows(place)
    changes.add(mark_rows(place.marks))
    changes.add(watermark_rows({"mx2": Watermark("r", 1)}))
    changes.add(sources_row(["ip1"]))
    changes.add(Transaction(meta={"seq": "5", WORD + "x": "{}"}))
    saved, problems = import_state(export_state(saved_with(changes)), file="export")
    assert not problems
    assert place_of(saved.meta) == replace(place, watermarks={"mx2": Watermark("r", 1)})
    assert sources_of(saved.meta) == []
    assert saved.meta.keys() & {"seq", WORD + "x"} == {"seq"}


def test_an_import_forgets_how_far_the_state_before_it_had_heard(tmp_path: Path) -> None:
    with Store.open(tmp_path / "state.db") as store:
        changes = place_rows(Place("epoch", "run", "9-9", 9))
        changes.add(mark_rows({("mx2", "later", "line"): Mark(3, 1)}))
        store.commit(changes)
        imported = saved_with(place_rows(Place("epoch", "run", "1-1", 1)))
        put_in_place(store, imported, replace=True, file="state.db")
    found = place_of(read_saved(tmp_path / "state.db").meta)
    assert found == Place("epoch", "run", "1-1", 1)


@given(st.integers(0, 5), st.integers(0, 8), st.integers(0, 12), st.integers(0, 14))
def test_of_a_block_just_the_lines_are_cut_out_that_were_not_told(
    bad: int, count: int, line: int, to_line: int
) -> None:
    before = 3
    numbers = range(before + bad + 1, before + bad + count + 1)
    data = b"".join(b"%d\n" % number for number in numbers)
    last = before + bad + count
    block = Block("s", data, Position(lines=last), count, len(data), bad)
    wanted = [number for number in numbers if line < number <= to_line]
    cut = _cut(block, line, to_line)
    if cut is None:
        assert not wanted
        return
    assert cut.data.split() == [b"%d" % number for number in wanted]
    assert cut.before == max(before, line)
    assert cut.position.lines == min(last, to_line)
    if wanted:
        assert cut.first == wanted[0]


TEXTS = ("plain", "often", "adjust", "slower", "again")


@pytest.mark.parametrize("text", TEXTS)
def test_a_group_comes_back_from_its_state_file_as_it_was(text: str) -> None:
    whole, first = GroupAutomation(), GroupAutomation()
    seconds = (100, 400, 110, 90, 120, 95)
    now_ns = (NOW + 500) * NS
    for second in seconds:
        whole.apply(found(second, text), mx={}, now_ns=now_ns)
    outcome = None
    for second in seconds[:3]:
        more = first.apply(found(second, text), mx={}, now_ns=now_ns)
        if outcome is None:
            outcome = more
        else:
            outcome.add(more)
    assert outcome is not None
    second_run, cleaning, problems = restore(saved_with(transaction(first, outcome)), group=True)
    assert not problems
    assert not cleaning
    for second in seconds[3:]:
        second_run.apply(found(second, text), mx={}, now_ns=now_ns)
    assert in_force(second_run) == in_force(whole)


def test_who_leaves_a_group_keeps_nothing_of_it() -> None:
    group = GroupAutomation()
    outcome = group.apply(found(0, "adjust again often"), mx={}, now_ns=NOW * NS)
    saved = saved_with(transaction(group, outcome))
    assert any(name.startswith("group:") for name in saved.meta)
    alone, cleaning, _ = restore(saved, group=False)
    assert type(alone) is Automation
    assert cleaning.drop_meta == {name for name in saved.meta if name.startswith("group:")}
    assert in_force(alone) == in_force(group)


def test_a_damaged_row_of_a_group_costs_itself() -> None:
    saved = Saved()
    saved.meta.update({"group:course:k": "?", "group:targets:5": "[]", "group:offence:k": "[]"})
    _, cleaning, problems = restore(saved, group=True)
    assert cleaning.drop_meta == set(saved.meta)
    assert len(problems) == 3


def test_how_far_a_segment_was_heard_is_forgotten_when_the_stream_has_nothing_of_it() -> None:
    hours, now_ms = 3_600_000, NOW * 1000
    shaping = SimpleNamespace(horizon_ns=3600 * NS)
    options: Any = {
        "flow": None,
        "ledger": None,
        "rules": lambda: SimpleNamespace(shaping=shaping),
        "log": None,
        "clock": lambda: NOW * NS,
    }
    share: Any = None
    fixed = resolve_settings({"share_host": "mx1"}, {}, None, require=()).fixed
    sharing = Sharing(share, settings=fixed, **options)
    known: Any = {
        ("mx2", "old", "line"): Mark(5, now_ms - 5 * hours),
        ("mx2", "/word/old", "word"): Mark(1, now_ms - 5 * hours),
        ("mx2", "young", "line"): Mark(5, now_ms - hours),
    }
    place: Any = Place("epoch", "run", "1-1", 1, known)
    assert sharing._prune(place).drop_meta == mark_rows({}, [("mx2", "old", "line")]).drop_meta
    assert not sharing._prune(place)  # once is enough


# Words.


def word(verb: Any = "cancel", second: int = 0, **fields: Any) -> Word:
    everything = Selection(domains=("*",), sites=())
    fields.setdefault("selection", everything)
    return Word(verb, "anna at mx1", (NOW + second) * NS, **fields)


@pytest.mark.parametrize("text", ["plain", "adjust", "again"])
def test_a_word_that_comes_late_leaves_what_matched_after_it(text: str) -> None:
    now_ns = (NOW + 700) * NS
    in_time, late = GroupAutomation(), GroupAutomation()
    in_time.apply(found(0, text), mx={}, now_ns=now_ns)
    keys = tuple(entry.key for entry in in_time.entries)
    said = word(second=300, selection=Selection(keys=keys))
    obey(in_time, said, "mx1/1", now_ns)
    in_time.apply(found(600, text), mx={}, now_ns=now_ns)
    late.apply(found(0, text), mx={}, now_ns=now_ns)
    late.apply(found(600, text), mx={}, now_ns=now_ns)
    obey(late, said, "mx1/1", now_ns)
    assert in_force(late).keys() == in_force(in_time).keys()
    if text == "adjust":
        assert in_force(late) == in_force(in_time)


def test_a_word_strikes_what_matched_before_it_though_it_comes_later() -> None:
    now_ns = (NOW + 700) * NS
    automation = GroupAutomation()
    obey(automation, word(second=300), "mx1/1", now_ns)
    automation.apply(found(200, "plain"), mx={}, now_ns=now_ns)
    assert in_force(automation) == {}
    automation.apply(found(400, "plain"), mx={}, now_ns=now_ns)
    assert in_force(automation)


def test_a_word_that_is_heard_again_holds_once() -> None:
    automation = GroupAutomation()
    for _ in range(2):
        obey(automation, word("hold", for_ns=10**15), "mx1/1", NOW * NS)
    [hold] = automation.holds
    assert hold.by == "anna at mx1"
    obey(automation, word("release", ends=("mx1/1",), selection=Selection()), "mx2/9", NOW * NS)
    assert not list(automation.holds)


def test_an_order_by_id_is_told_by_what_is_meant() -> None:
    automation = GroupAutomation()
    automation.apply(found(0, "plain"), mx={}, now_ns=NOW * NS)
    entry = next(e for e in automation.entries if isinstance(e, Override))
    id_ = automation.episodes[entry.key].id
    given = Order("cancel", Selection(ids=(id_, 99)), by="anna")
    done, told = order(automation, given, "1", host="mx1", now_ns=NOW * NS, rules=())
    assert (done.answer.cancelled, done.answer.unknown) == ((id_,), (99,))
    assert told is not None
    assert told.selection == Selection(keys=(entry.key,))
    assert word_from_json(told.to_json()) == told
    assert not is_old(told.to_json(), NOW * NS)
    assert is_old(told.to_json(), (NOW + 7 * 86400) * NS)
    assert is_old("?", 0)


def test_an_order_for_a_rule_that_is_not_there_is_no_word() -> None:
    given = Order("hold", Selection(rules=("nobody",)), 10**12, by="anna")
    automation = GroupAutomation()
    done, told = order(automation, given, "1", host="mx1", now_ns=NOW * NS, rules=())
    assert told is None
    assert "nobody" in done.answer.refused


# How it is.


def test_the_log_says_once_that_the_group_is_away_and_that_it_is_there() -> None:
    ill = {"connected": False, "since_ns": NS + 5, "problem": "redis://mx: is away"}
    well = {"connected": True, "since_ns": NS, "problem": None}
    counts: dict[str, Any] = {"notes": (), "counts": Counts(), "queued": 0, "queued_bytes": 0}
    share: Any = SimpleNamespace(hosts=list)
    log = io.StringIO()
    options: Any = {"flow": None, "ledger": None, "rules": lambda: None, "clock": lambda: NOW * NS}
    fixed = resolve_settings({"share_host": "mx1"}, {}, None, require=()).fixed
    sharing = Sharing(share, settings=fixed, log=Log(stream=log), **options)

    def lines(**health: Any) -> list[str]:
        share.health = Health(**counts, **health, behind=0, unread=None, delay=None)
        sharing.watch()
        said = log.getvalue().splitlines()
        log.seek(0)
        log.truncate()
        return said

    assert lines(connected=False, since_ns=NS, problem=None) == []  # it has not tried yet
    [away] = lines(**ill)
    assert away.startswith(
        "ERROR redis://mx: is away. Since 1970-01-01T00:00:01Z this host decides"
    )
    assert lines(**ill) == []
    [there] = lines(**well)
    assert there == "INFO deciding together with the group group=mail host=mx1"
    assert lines(**well) == []
    [twin] = lines(**well, namesake=True)
    assert "calls itself mx1 as well" in twin
    assert len(lines(**ill)) == 1


def test_the_place_moves_with_what_is_decided_not_after_its_commit() -> None:
    """A state that is written anew during the commit would count the items again."""
    items = [
        Received("mx2", "s", 1, "line", b"{}"),
        Received("mx2", "w", 1, "word", b"{}"),
        Received("mx2", "s", 2, "line", b"{}"),
    ]
    ends: dict[Any, Mark] = {
        ("mx2", "s", "line"): Mark(2, 5),
        ("mx2", WORDS + "w", "word"): Mark(1, 5),
    }
    batch = Batch(tuple(items), Place("e", "r", "7-1", 3), moved=ends)
    ledger: Any = SimpleNamespace(place=Place("e", "r", "1-1", 0))
    seen: list[tuple[str, dict[Any, int]]] = []

    async def hear(some: Any, rows: Transaction, *, move: Any, more: bool) -> int:
        before = ledger.place.id
        move()
        marks = {origin: mark.line for origin, mark in ledger.place.marks.items()}
        seen.append((f"{before} {ledger.place.id}", marks))
        return 0

    rules: Any = SimpleNamespace(shaping=SimpleNamespace(horizon_ns=NS))
    options: Any = {"rules": lambda: rules, "clock": lambda: NOW * NS}
    fixed = resolve_settings({"share_host": "mx1"}, {}, None, require=()).fixed
    flow: Any = SimpleNamespace(hear=hear)
    share: Any = SimpleNamespace()
    log = Log(stream=io.StringIO())
    sharing = Sharing(share, settings=fixed, flow=flow, ledger=ledger, log=log, **options)
    asyncio.run(sharing._take(batch))
    line, word = ("mx2", "s", "line"), ("mx2", WORDS + "w", "word")
    assert seen == [
        ("1-1 1-1", {line: 1}),
        ("1-1 1-1", {line: 1, word: 1}),
        ("1-1 7-1", {line: 2, word: 1}),
    ]


@pytest.mark.parametrize(
    ("number", "given_up"), [(errno.EMFILE, []), (errno.ENOMEM, []), (errno.EIO, ["one"])]
)
def test_a_segment_is_not_given_up_since_this_host_has_no_more_files_to_open(
    number: int, given_up: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one").write_bytes(b"x")
    forgotten: list[str] = []
    share: Any = SimpleNamespace(
        unsaid=list,
        behind=lambda: {} if forgotten else {"one": Behind(0, 0)},
        forget=forgotten.append,
    )
    tried: list[Path] = []

    async def fails(path: Path, **_: Any) -> Any:
        tried.append(path)
        raise OSError(number, "it fails")

    async def wait_behind() -> None:
        if len(tried) == 2 or forgotten:
            raise EOFError  # enough

    share.wait_behind = wait_behind
    monkeypatch.setattr("sidecar.service.sharing.SegmentFile.open", fails)
    monkeypatch.setattr("sidecar.service.sharing._AGAIN_SECONDS", 0)
    ledger: Any = SimpleNamespace(words={}, checkpoints={"one": object()})
    rules: Any = SimpleNamespace(shaping=SimpleNamespace(horizon_ns=NS))
    options: Any = {"flow": None, "rules": lambda: rules, "clock": time.time_ns}
    fixed = resolve_settings({"log_dir": str(tmp_path)}, {}, None, require=()).fixed
    sharing = Sharing(
        share, settings=fixed, ledger=ledger, log=Log(stream=io.StringIO()), **options
    )

    with pytest.raises(EOFError):
        asyncio.run(sharing.tell_again())
    assert forgotten == given_up


# What people and settings say.


def test_the_table_of_hosts_fits_into_80_columns() -> None:
    host = {
        "host": "a-host-with-a-very-long-name.example.com",
        "own": True,
        "version": "1.0.0.post99.dev1234",
        "silent_seconds": 400_000.0,
        "unread": 1_234_567_890,
        "same_rules": False,
    }
    share = {
        "group": "mail",
        "host": "mx1",
        "connected": False,
        "since": "2026-11-27T10:07:53.837682628Z",
        "hosts": [host],
    }
    lines = table({"share": share})
    assert len(lines) == 3
    assert all(len(line) <= 80 for line in lines)
    assert lines[0].endswith("not connected since 2026-11-27T10:07:53Z")
    assert lines[2].endswith("other")


def table(document: dict[str, Any] | None, *, running: bool = True) -> list[str]:
    return [str(line) for line in describe_hosts(document, running=running)]


def test_a_stopped_service_is_not_shown_as_connected() -> None:
    share = {"group": "mail", "host": "mx1", "connected": True, "problem": "is away", "hosts": []}
    lines = table({"share": share, "at": "2026-11-27T10:07:53.8Z"}, running=False)
    assert lines[0] == 'group "mail", this is mx1: not running, as of 2026-11-27T10:07:53Z'
    assert len(lines) == 2


def test_who_shares_with_nobody_is_told_apart_from_who_has_not_run() -> None:
    assert "shares with nobody" in table({"share": None})[0]
    assert "has not run yet" in table(None, running=False)[0]


def test_a_password_comes_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    options = {"share": "redis://tsa@10.0.0.5", "share_host": "mx1", "share_password_file": file}
    fixed = resolve_settings(options, {}, None, require=()).fixed
    with pytest.raises(ProblemError, match="can't be read"):
        share_settings(fixed)
    for content, said in ((b"", "no password"), (b"a\nb", "one line"), (b"\xff", "UTF-8")):
        file.write_bytes(content)
        file.chmod(0o600)
        with pytest.raises(ProblemError, match=said):
            share_settings(fixed)
    file.write_text("s3cret\n")
    file.chmod(0o644)
    with pytest.raises(ProblemError, match="has mode 0644, so others may read"):
        share_settings(fixed)
    file.chmod(0o640)
    made = share_settings(fixed)
    assert made.address.password is not None
    assert made.address.password.value == "s3cret"
    assert "s3cret" not in repr(made)
    assert share_settings(replace(fixed, share_host=None)).host


# What is heard.


def heard_before(kinds: str) -> Batch:
    """A batch of two hosts with a line or a word for each of the letters."""
    items = [
        Received("ab"[n % 2], "seg" if kind == "l" else str(n), n + 1, _KIND[kind], b"")
        for n, kind in enumerate(kinds)
    ]
    moved: dict[Any, Mark] = {}
    for item in items:
        segment = item.segment if item.kind == "line" else WORDS + item.segment
        moved[item.host, segment, item.kind] = Mark(item.line, 7)
    return Batch(tuple(items), Place(), moved)


_KIND: dict[str, Kind] = {"l": "line", "w": "word"}


@given(st.text("llw", max_size=12))
def test_a_word_stands_alone_and_what_is_committed_with_it_is_what_was_heard(kinds: str) -> None:
    batch = heard_before(kinds)
    slices = [list(items) for items in _slices(batch.items)]
    assert [item for items in slices for item in items] == list(batch.items)
    assert all(items for items in slices)
    assert all(len(items) == 1 for items in slices if any(one.kind == "word" for one in items))
    moved: dict[Any, Mark] = {}
    for items in slices:
        moved |= _marks(items, batch)
    assert moved == batch.moved
