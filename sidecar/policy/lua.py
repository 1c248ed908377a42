"""Run a policy file in this process and hand back what it said.

The environment is set up by ``prelude.lua``; this module makes the Lua
runtime so that nothing of Python can be reached from it, and turns errors
into Problems with the Lua file and line.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from sidecar import __version__
from sidecar.policy import functions
from sidecar.policy.exchange import Answer, Limits
from sidecar.policy.host import Host, from_lua, shown, to_lua
from sidecar.problems import Problem, ProblemError

VERSION = "2026.08.01-tsa-sidecar"
"""``kumo.version`` for policies that ask: the KumoMTA whose manner this follows."""

# KumoMTA's own search path (docs: configuration/policy; crates/config), then
# Lua's, then the policy's own directory, so that a copy elsewhere runs, too.
_LUA_PATH = (
    "/opt/kumomta/share/?.lua",
    "/opt/kumomta/share/?/init.lua",
    "/opt/kumomta/etc/policy/?.lua",
    "/opt/kumomta/etc/policy/?/init.lua",
    "/usr/local/share/lua/5.4/?.lua",
    "/usr/local/share/lua/5.4/?/init.lua",
    "./?.lua",
    "./?/init.lua",
)

_TICK = 10_000  # instructions between two looks at the limits
_RESERVE = 64 << 20  # memory beyond the limit, so that an error can still be told


def run_policy(path: Path, *, env: Mapping[str, str], limits: Limits) -> Answer:
    """Run the policy at `path` in this process, with `env` as its environment variables.

    It may take for ever, or all the memory there is: see :mod:`sidecar.policy.child`.
    Raises ProblemError when the file can't be read or its code fails or
    exceeds `limits`; warnings so far come behind the error.
    """
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        reason = f"can't be read: {error.strerror}; --policy names another policy"
        raise ProblemError.one("policy-unreadable", reason, file=str(path)) from None
    host = Host(env=env, command_seconds=limits.command_seconds)
    run = _prepare(path, host, limits)
    for step in ("run", "load_shaping", "init"):
        _check(run[step], path, host, limits)
    return host.said()


def _runtime() -> Any:
    """KumoMTA embeds Lua 5.4; without it the nearest one that lupa brings."""
    for name in ("lua54", "lua55", "lua53"):
        try:
            return importlib.import_module(f"lupa.{name}")
        except ImportError:
            continue
    raise ProblemError.one("no-lua", "this lupa has no Lua 5.3 or newer: install it from PyPI")


def _deny(*_: object) -> NoReturn:
    raise AttributeError("nothing of Python can be reached from a policy")


def _prepare(path: Path, host: Host, limits: Limits) -> dict[str, Any]:
    """Make a runtime and run the prelude in it; the functions it returns, by name."""
    module = _runtime()
    lua = module.LuaRuntime(
        encoding=None,  # bytes both ways: text in a policy need not be UTF-8
        register_eval=False,
        register_builtins=False,
        unpack_returned_tuples=True,
        attribute_handlers=(_deny, _deny),
        max_memory=limits.memory + _RESERVE,
    )
    prelude = Path(__file__).with_name("prelude.lua").read_bytes()
    here = path.parent.absolute()
    setup = {
        "policy": str(path),
        "path": ";".join((*_LUA_PATH, f"{here}/?.lua", f"{here}/?/init.lua")),
        "env": dict(host.env),
        "version": VERSION,
        "sidecar_version": __version__,
        "serde": sorted(functions.SERDE),
        "strings": sorted(functions.STRINGS),
        "dns": sorted(host.dns_operations()),
        "memory": limits.memory,
        "tick": _TICK,
        "ticks": max(1, limits.instructions // _TICK),
        "too_long": _too_long(limits),
    }
    chunk = lua.compile(prelude, name=b"=sidecar", mode=b"t")
    functions_by_name = chunk(_bridge(host, module, lua.table), to_lua(setup, lua.table))
    return {name.decode(): function for name, function in functions_by_name.items()}


def _too_long(limits: Limits) -> str:
    return (
        f"the policy ran for {limits.instructions:,} Lua instructions without coming to an end; "
        "is there an endless loop?"
    )


def _bridge(host: Host, module: Any, new_table: Callable[[], Any]) -> Callable[..., Any]:
    """The one function that Lua calls; it never raises, since Lua would see the exception."""

    def call(operation: bytes, *args: Any) -> tuple[bool, Any]:
        try:
            plain = [from_lua(arg, module.lua_type) for arg in args]
            return True, to_lua(host.answer(operation.decode(), plain), new_table)
        except OSError as error:
            name = f"{error.filename}: " if error.filename else ""
            reason = f"{name}{error.strerror or error}"
        except ValueError as error:
            reason = str(error)
        except RecursionError:
            reason = f"{operation.decode()}: nested too deeply"
        except MemoryError:
            reason = f"{operation.decode()}: more than there is memory for"
        except Exception as error:  # noqa: BLE001 - must not reach Lua as an object
            reason = f"{type(error).__name__}: {error}"
        return False, reason.encode("utf-8", "backslashreplace")

    return call


def _check(function: Any, path: Path, host: Host, limits: Limits) -> None:
    """Call a function of the prelude; ProblemError when it says that the policy failed."""
    answer = function()
    if answer is True or answer[0]:
        return
    text, file, line = (*answer[1:], None, None, None)[:3]
    message = " ".join(part.strip() for part in _decode(text).splitlines())
    code = "policy-error"
    if message == "not enough memory":
        code = "policy-memory"
        message = f"the policy took more than {limits.memory >> 20} MiB of memory"
    elif message == _too_long(limits):
        code = "policy-endless"
    message = shown(message)
    where = _decode(file) if file is not None else str(path)
    error = Problem("error", code, message, file=where, line=line)
    raise ProblemError([error, *host.warnings])


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")
