"""Episodes of the running service: in the journal, in the state file, in the history."""

from __future__ import annotations

import time

from sidecar.automation.episodes import Episode, episode_from_payload
from sidecar.store import HistoryRow, Store, Transaction, read_saved
from sidecar.times import NS

from .support import RULES, Setup, failure, until


def stories(setup: Setup) -> list[Episode]:
    return [episode_from_payload(row.episode) for row in setup.saved().entries.values()]


def test_what_began_and_ended_is_in_the_journal_and_in_the_history(setup: Setup) -> None:
    setup.rules.write_text(RULES.replace('duration = "1 day"', 'duration = "2 s"', 1))
    running = setup.run()
    setup.log(failure(1, domain="a.example"))
    line = running.says("INFO ended").splitlines()
    (began,) = [text for text in line if "rule struck" in text]
    assert " id=1 " in began
    assert 'response="421 10.0.0.1 Throttled #1"' in began
    ((id_, row),) = until(lambda: read_saved(setup.state_file, history=True).history).items()
    assert (id_, row.how, row.by) == (1, "expired", "")
    story = episode_from_payload(row.episode)
    assert story.first is not None
    assert story.first.domain == "a.example"
    assert running.stop() == 0


def test_an_episode_keeps_its_id_over_restarts(setup: Setup) -> None:
    for number in range(3):
        setup.log(failure(number, domain="a.example"))
        setup.once()
        (story,) = stories(setup)
        assert (story.id, story.matches) == (1, number + 1)


def test_an_entry_whose_rule_is_gone_stays_and_is_marked(setup: Setup) -> None:
    running = setup.run()
    setup.log(failure(1, domain="a.example"))
    until(setup.overlay)
    new = setup.rules.with_name("new.toml")
    new.write_text(RULES.replace('regex = "Throttled"', 'regex = "Quite another"'))
    new.rename(setup.rules)
    running.says("entries whose rule is gone stay until they expire entries=1")
    until(lambda: [story.rule_gone for story in stories(setup)] == [True])
    assert "a.example" in setup.overlay()
    assert running.stop() == 0
    setup.rules.write_text(RULES)  # while it does not run
    setup.once()
    assert [story.rule_gone for story in stories(setup)] == [False]


def test_the_history_goes_when_it_is_old(setup: Setup) -> None:
    now = time.time_ns()
    ages = {1: 40, 2: 20, 3: 1}
    rows = {
        number: HistoryRow(now - days * 86400 * NS, "override", "{}", "{}", "expired")
        for number, days in ages.items()
    }
    setup.once()
    with Store.open(setup.state_file) as store:
        store.commit(Transaction(history=rows))
    running = setup.run(history="30 days")
    until(lambda: read_saved(setup.state_file, history=True).history.keys() == {2, 3})
    assert running.stop() == 0
