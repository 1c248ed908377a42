"""A stand-in for kumod that runs the Lua of packaging/lua: see kumod.lua."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lupa.lua54

HERE = Path(__file__).parent
PACKAGING = HERE.parent.parent / "packaging"
LUA = PACKAGING / "lua"


class Kumod:
    """A Lua runtime with kumod's functions, and what was asked of them.

    ``now`` is the time that Lua sees, in seconds since 1970; `null` stands for
    JSON's null, which is nil unless another value is given.
    """

    def __init__(
        self, *, now: int = 1_795_000_000, path: str = f"{LUA}/?.lua", null: object = None
    ) -> None:
        self.now = now
        self._null = null
        self.lua = lupa.lua54.LuaRuntime()
        self.lua.globals().package.path = path
        stand_in = self._load((HERE / "kumod.lua").read_text())
        self.seen = stand_in(self._parse, lambda: self.now)

    def _load(self, text: str) -> Callable[..., Any]:
        load = self.lua.eval("function(text) return assert(load(text)) end")
        return load(text)  # type: ignore[no-any-return]

    def _parse(self, text: str) -> object:
        value = self._with_null(json.loads(text))
        return self.lua.table_from({"value": value}, recursive=True).value

    def _with_null(self, value: object) -> object:
        if isinstance(value, dict):
            return {key: self._with_null(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._with_null(item) for item in value]
        return self._null if value is None else value

    def run(self, policy: str) -> None:
        """Run a policy's text, as kumod does for every Lua context."""
        self._load(policy)()

    def init(self) -> None:
        """Trigger the event `init`."""
        self.seen.fire("init")

    def task(self) -> Callable[[], float | None]:
        """The only task that was spawned; each call runs it up to its next sleep."""
        assert len(self.seen.tasks) == 1
        step: Callable[[], float | None] = self.seen.start(self.seen.tasks[1])
        return step

    def plain(self, value: object) -> Any:
        """A Lua value as Python's."""
        if lupa.lua54.lua_type(value) != "table":
            return value
        items = dict(value.items())  # type: ignore[attr-defined]
        if list(items) == list(range(1, len(items) + 1)):
            return [self.plain(item) for item in items.values()]
        return {key: self.plain(item) for key, item in items.items()}

    @property
    def calls(self) -> list[tuple[str, Any]]:
        """The calls of the admin API since this was last asked, in order."""
        calls = [(call.name, self.plain(call.argument)) for call in self.seen.calls.values()]
        self.seen.calls = self.lua.table()
        return calls

    def suspended(self, api: str) -> dict[str, str]:
        """Target -> expiry of what stands with kumod."""
        return {key: entry.request.expires for key, entry in self.seen[api].items()}

    def log(self, level: str) -> list[str]:
        """The lines logged at `level` since this was last asked for any level."""
        lines = [line.text for line in self.seen.logs.values() if line.level == level]
        self.seen.logs = self.lua.table()
        return lines

    def fail(self, call: str, why: str | None) -> None:
        """Let a call of the admin API (``suspend.delete``) raise `why` from now on."""
        self.seen.failing[call] = why
