"""Rule files that change, break, are mended, or come by HTTP; DNS that fails."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sidecar.service.rules import load_rules
from sidecar.settings import resolve_settings
from sidecar.shaping.mx import MxAnswer, MxError, ZoneResolver
from sidecar.times import NS
from tests.shaping.nameserver import nameserver

from .support import RULES, Setup, failure, until

OTHER = RULES.replace("Throttled", "Somewhat busy")
BROKEN = RULES.replace('duration = "1 day"', 'duration = "1 dya"', 1)


def replace(path: Path, text: str) -> None:
    """As an editor does: a new file over the old one."""
    new = path.with_name(path.name + "~")
    new.write_text(text, encoding="utf-8")
    new.rename(path)


def test_a_changed_rule_file_is_picked_up(setup: Setup) -> None:
    running = setup.run()
    replace(setup.rules, OTHER)
    running.says("the rules were replaced")
    setup.log(failure(1, "Somewhat busy", domain="new.example"), failure(2, domain="old.example"))
    until(lambda: "new.example" in setup.overlay())
    assert "old.example" not in setup.overlay()
    assert running.stop() == 0


def test_sighup_reads_the_rules_again(setup: Setup) -> None:
    running = setup.run(ttl="1 day")
    text = setup.rules.stat()
    running.signal(signal.SIGHUP)
    with setup.rules.open("r+") as file:
        file.write(OTHER)
    running.signal(signal.SIGHUP)
    running.says("the rules were replaced")
    assert setup.rules.stat().st_ino == text.st_ino
    assert running.stop() == 0


def test_broken_rules_leave_the_last_good_ones_in_force_until_mended(setup: Setup) -> None:
    running = setup.run()
    replace(setup.rules, BROKEN)
    output = running.says("the rules were not replaced; the last good ones stay")
    assert f"file={setup.rules} line=5" in output
    until(lambda: any("1 dya" in error for error in setup.status()["errors"]))
    setup.log(failure(1, domain="still.example"))
    until(lambda: "still.example" in setup.overlay())
    replace(setup.rules, OTHER)
    running.says("the rules were replaced")
    until(lambda: setup.status()["errors"] == [])
    setup.log(failure(2, "Somewhat busy", domain="again.example"))
    until(lambda: "again.example" in setup.overlay())
    assert running.stop() == 0


def test_a_new_name_and_a_misspelt_key_are_picked_up_and_told(setup: Setup) -> None:
    running = setup.run()
    replace(setup.rules, RULES.rstrip() + '\nsidecar.name = "bounces"\n')
    running.says("the rules were replaced")
    setup.log(failure(1, "Bounce it", domain="named.example"))
    until(lambda: setup.beside("bounced.json"))
    (bounce,) = setup.beside("bounced.json")
    assert bounce["reason"].startswith("automation rule: bounces: Bounce it")
    replace(setup.rules, RULES.rstrip() + '\nsidecar.name = "bounces"\nsidecar.simulat = true\n')
    running.says('key "simulat" means nothing')
    assert running.stop() == 0


def rule(regex: str) -> str:
    return f"[[default.automation]]\nregex = '{regex}'\naction = 'Suspend'\nduration = '1h'\n"


def test_a_regex_that_explodes_leaves_the_last_good_rules_in_force(setup: Setup) -> None:
    running = setup.run()
    explodes = r"(?:(?:(?:a{50}\b){50}){50}){50}(?=x)"
    replace(setup.rules, setup.rules.read_text() + rule(explodes))
    output = running.says("the rules were not replaced; the last good ones stay")
    assert "too large to be run here" in output
    setup.log(failure(1, domain="still.example"))
    until(lambda: "still.example" in setup.overlay())
    assert running.stop() == 0


def test_rules_that_take_more_memory_than_there_is_leave_the_last_good_ones_in_force(
    setup: Setup,
) -> None:
    running = setup.run(ttl="1 day", prepare="tests.service.broken:memory_runs_out")
    exhausted = setup.rules.with_name("exhausted")
    exhausted.touch()
    replace(setup.rules, OTHER)
    output = running.says("the rules were not replaced; the last good ones stay")
    assert "more memory than there is" in output
    until(lambda: any("more memory than there is" in error for error in setup.status()["errors"]))
    setup.log(failure(1, domain="still.example"))
    until(lambda: "still.example" in setup.overlay())
    exhausted.unlink()
    running.signal(signal.SIGHUP)
    running.says("the rules were replaced")
    until(lambda: setup.status()["errors"] == [])
    assert running.stop() == 0


def test_a_load_of_thousands_of_rules_leaves_the_loop_to_others(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text("".join(at_domain(n) + rule(f"text {n}") for n in range(4000)))
    settings = resolve_settings({"shaping": (str(rules),)}, {}, None, require=("shaping",))
    zone = "$ORIGIN other.example.\n@ 600 IN A 127.0.0.1\n"
    longest = 0.0

    async def others() -> None:
        nonlocal longest
        while True:
            began = time.thread_time()  # of the loop's own work, however busy the machine is
            await asyncio.sleep(0)
            longest = max(longest, time.thread_time() - began)

    async def load() -> None:
        task = asyncio.create_task(others())
        await load_rules(settings.reloaded, ZoneResolver([zone]))
        task.cancel()

    began = time.process_time()
    asyncio.run(load())
    assert longest < (time.process_time() - began) / 5


def at_domain(number: int) -> str:
    return rule(f"text {number}").replace("default", f"'d{number}.example'")


def test_a_regex_that_takes_too_long_too_often_is_switched_off_and_said(setup: Setup) -> None:
    setup.rules.write_text(setup.rules.read_text() + rule("(?=zzz((a|a)*)*d)z"))
    line = setup.rules.read_text().count("\n") - 3
    running = setup.run(ttl="1 day")
    setup.log(*(failure(n, f"{n} zzz" + "a" * 60 + " d") for n in range(1, 40)))
    output = running.says("is switched off, so the rule misses matches: 5 searches took longer")
    assert f"file={setup.rules} line={line}" in output
    until(lambda: "tsa_sidecar_regexes_switched_off 1.0" in setup.get("/metrics").decode())
    assert "tsa_sidecar_regex_timeouts_total 5.0" in setup.get("/metrics").decode()
    assert any("is switched off" in error for error in setup.status()["errors"])
    replace(setup.rules, setup.rules.read_text() + rule("another"))
    running.signal(signal.SIGHUP)
    running.says("the rules were replaced")
    assert any("is switched off" in error for error in setup.errors())
    assert running.stop() == 0


def test_broken_rules_at_the_start_end_it_with_the_line_and_what_was_in_force_published(
    setup: Setup,
) -> None:
    setup.log(failure(1, domain="kept.example"))
    setup.once()
    setup.overlay_file.unlink()
    setup.rules.write_text(BROKEN)
    running = setup.start()
    assert running.wait() == 1
    assert f"error: {setup.rules}:5: " in running.output
    assert "Traceback" not in running.output
    assert "kept.example" in setup.overlay()


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{{}}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_rule_file_by_http_that_is_down_after_a_restart_is_taken_from_the_state(
    setup: Setup,
) -> None:
    with serving(setup.base) as url:
        address = url.format(setup.rules.name)
        setup.once(shaping=address)
    setup.log(failure(1, domain="remote.example"))
    setup.once("--merge-option", "remote_load=Warn", shaping=address)
    assert "remote.example" in setup.overlay()


def test_rules_by_http_that_never_came_are_an_error_in_the_status(setup: Setup) -> None:
    with serving(setup.base) as url:
        missing = url.format("nothing.toml")
    running = setup.run(shaping=missing)
    until(lambda: any("never loaded" in error for error in setup.errors()))
    (condition,) = [c for c in setup.status()["conditions"] if c["code"] == "remote-missing"]
    assert condition["level"] == "error"
    assert missing in condition["text"]
    assert running.stop() == 0


def test_a_rule_file_that_comes_empty_replaces_no_good_copy(setup: Setup) -> None:
    with serving(setup.base) as url:
        address = url.format(setup.rules.name)
        setup.once(shaping=address)
        setup.rules.write_text("")
        setup.log(failure(1, domain="meanwhile.example"))
        setup.once(shaping=address)
        assert "meanwhile.example" in setup.overlay()
    setup.log(failure(2, domain="down.example"))
    setup.once(shaping=address)
    assert "down.example" in setup.overlay()


@contextmanager
def name_server(answers: list[str]) -> Iterator[str]:
    """A name server on a thread of its own, which knows these records; its address."""
    address: Future[str] = Future()
    stop: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        ended = asyncio.Event()
        async with nameserver(lambda _name: answers) as server:
            stop.set_result((asyncio.get_running_loop(), ended))
            address.set_result(f"127.0.0.1:{server.port}")
            await ended.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        yield address.result()
    finally:
        loop, ended = stop.result()
        loop.call_soon_threadsafe(ended.set)
        thread.join()


def test_dns_answers_outlive_a_restart_without_dns(setup: Setup) -> None:
    domain = "comcast.example"
    setup.rules.write_text(
        f'["{domain}"]\nmx_rollup = true\n' + RULES.replace('"default"', f'"{domain}"')
    )
    with name_server([f"{domain}. 1 IN MX 5 mx.{domain}."]) as address:
        setup.once("--nameserver", address)
    assert domain in setup.saved().mx
    setup.log(failure(1, domain=domain))
    setup.once("--nameserver", address)
    assert domain in setup.overlay()


def test_rules_left_out_for_want_of_an_mx_are_said_and_asked_for_again(setup: Setup) -> None:
    setup.rules.write_text(
        setup.rules.read_text()
        + "".join(f'["d{n}.example"]\nconnection_limit = {n}\n' for n in range(1, 8))
    )
    zone = setup.rules.with_name("other.zone")
    zone.write_text("$ORIGIN other.example.\n@ 600 IN A 127.0.0.1\n")
    running = setup.run("--dns-zone", str(zone))
    running.says("left out, since their MX does not resolve: d1.example, d2.example")
    assert running.stop() == 0
    # Who has asked for a warning of each gets that.
    running = setup.run("--dns-zone", str(zone), "--merge-option", "dns_fail=Warn")
    assert "left out, since" not in running.output
    assert "d7.example" in running.output
    assert running.stop() == 0


def test_one_domain_that_does_not_resolve_is_one(setup: Setup) -> None:
    setup.rules.write_text(setup.rules.read_text() + '["d1.example"]\nconnection_limit = 1\n')
    zone = setup.rules.with_name("other.zone")
    zone.write_text("$ORIGIN other.example.\n@ 600 IN A 127.0.0.1\n")
    running = setup.run("--dns-zone", str(zone))
    running.says("options of 1 domain are left out, since its MX does not resolve: d1.example (")
    assert running.stop() == 0


def test_what_does_not_resolve_is_asked_for_before_the_ttl_has_passed(tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('["late.example"]\nconnection_limit = 1\n')
    options = {"shaping": (str(rules),), "ttl": "1 hour"}
    settings = resolve_settings(options, {}, None, require=("shaping",))

    class Failing:
        async def resolve(self, domain: str) -> MxAnswer:
            raise MxError(domain, "no answer", retry_ns=100 * NS)

        def recall(self, domain: str) -> MxAnswer | None:
            return None

        def remembered(self, domain: str) -> MxAnswer | None:
            return None

    loaded = asyncio.run(load_rules(settings.reloaded, Failing()))
    assert loaded.reload_ns(20 * NS) == 80 * NS
    assert loaded.reload_ns(99 * NS) == 30 * NS  # a load of many rules takes its time
    zone = "$ORIGIN late.example.\n@ 600 IN A 127.0.0.1\n"
    whole = asyncio.run(load_rules(settings.reloaded, ZoneResolver([zone])))
    assert whole.reload_ns(0) == 3600 * NS


def test_the_copy_of_a_rule_file_that_nobody_names_any_more_is_forgotten(setup: Setup) -> None:
    with serving(setup.base) as url:
        address = url.format(setup.rules.name)
        setup.once(shaping=address)
        assert any(name.endswith(address) for name in setup.saved().meta)
        setup.once()
    assert not any("http" in name for name in setup.saved().meta)
