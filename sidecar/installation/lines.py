"""The lines that kumod's ``init.lua`` needs, for each road by which decisions reach kumod.

In: the road and the paths.  Out: Lua, ready to paste.  packaging/lua holds the
same texts for the default paths; a test keeps them equal and runs them.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Road = Literal["file", "subscribe", "lua"]
ROADS: tuple[Road, ...] = get_args(Road)

FAST_LOG = Path("/var/log/kumomta/fast")
"""Where the log for the sidecar is proposed: kumod may create directories below its own."""

SYSTEMD = Path("/etc/systemd/system")

LUA_DIRECTORY = Path("/usr/share/tsa-sidecar/lua")
"""Where the Debian package puts tsa_sidecar.lua."""

FAST_LOG_RETENTION = "1 hour"
"""How long segments of that log are kept: the log that is kept is the site's own."""

SHORT_DELIVERY = (
    '{"type":"Delivery","recipient":{{ recipient | tojson }},"queue":{{ queue | tojson }},'
    '"site":{{ site | tojson }},"egress_source":{{ egress_source | tojson }},'
    '"response":{"code":{{ response.code }},"content":""},"timestamp":{{ timestamp }},'
    '"event_time":{{ event_time | tojson }}}'
)
"""A ``per_record`` template of a delivery that says all that a share needs, in a quarter of the
bytes."""

# Delivery is left out: there are many, and rules are about refusals.
_FAST_RECORDS = ("AdminBounce", "Bounce", "Expiration", "Feedback", "OOB", "TransientFailure")


@dataclass(frozen=True, slots=True)
class Wiring:
    """What the lines have to say: the road, and where things are.

    ``extra_files``: the site's own shaping files, without the overlay.
    ``fast_log`` None: no log of its own for the sidecar is proposed.
    """

    road: Road = "file"
    overlay: Path = Path("/opt/kumomta/etc/tsa-sidecar/shaping.toml")
    url: str = "http://127.0.0.1:8008"
    extra_files: Sequence[str] = ("/opt/kumomta/etc/policy/shaping.toml",)
    log_dir: Path = Path("/var/log/kumomta")
    fast_log: Path | None = FAST_LOG
    lua_directory: Path = LUA_DIRECTORY


_ABOUT: dict[Road, str] = {
    "file": "the overlay as a file, suspensions and bounces through kumod's admin API\n"
    "-- (TSA_SIDECAR_KUMOD_API=http://127.0.0.1:8000 in /etc/default/tsa-sidecar).",
    "subscribe": "the overlay, suspensions and bounces from the sidecar's HTTP listener.",
    "lua": "the overlay, suspensions and bounces as files, which Lua in kumod reads.",
}


def packaged_files() -> dict[str, str]:
    """packaging/lua's files for the default paths, by name."""
    return {
        f"init-{road}.lua": f"-- For kumod's init.lua: {about}\n"
        f"-- `tsa-sidecar init --road {road}` prints it with this machine's paths.\n\n"
        + policy_lines(Wiring(road=road))
        for road, about in _ABOUT.items()
    }


def quote(text: str) -> str:
    """`text` as a Lua string."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return "'" + escaped.replace("\n", "\\n").replace("\r", "\\r").replace("\0", "\\0") + "'"


def policy_lines(wiring: Wiring) -> str:
    """What belongs into ``init.lua``; the comments say where."""
    return "\n".join([*_top(wiring), "", *_init(wiring), "", *_bottom()]) + "\n"


def fast_log_lines(directory: Path) -> list[str]:
    """The call that makes kumod write a log for the sidecar beside its others."""
    return [
        "kumo.configure_local_logs {",
        f"  log_dir = {quote(str(directory))},",
        "  max_segment_duration = '1s',",
        "  per_record = {",
        *(f"    {name} = {{ enable = true }}," for name in _FAST_RECORDS),
        "    -- Rules with sidecar.ratio have to know what is delivered. This writes it short:",
        f"    -- Delivery = {{ template = [[{SHORT_DELIVERY}]] }},",
        "    -- If a rule matches what a delivery's response says: Delivery = { enable = true },",
        "    Any = { enable = false },",
        "  },",
        "}",
    ]


def fast_log_commands(directory: Path) -> list[str]:
    """What root has to run so that the sidecar may delete what it has read of that log."""
    drop_in = "tsa-sidecar.service.d/fast-log.conf"
    return [
        f"install -d -o kumod -g tsa-sidecar -m 2770 {shlex.quote(str(directory))}",
        f"install -d {SYSTEMD}/tsa-sidecar.service.d",
        f"printf '[Service]\\nReadWritePaths=-%s\\n' {shlex.quote(str(directory))} "
        f"> {SYSTEMD}/{drop_in}",
        "systemctl daemon-reload",
    ]


def _top(wiring: Wiring) -> list[str]:
    lines = ["local kumo = require 'kumo'", "local shaping = require 'policy-extras.shaping'"]
    if wiring.road == "lua":
        search = quote(f"{wiring.lua_directory}/?.lua;")
        lines += [
            f"package.path = {search} .. package.path",
            "local tsa_sidecar = require 'tsa_sidecar'",
        ]
    return [*lines, "", *_shaper(wiring)]


def _shaper(wiring: Wiring) -> list[str]:
    files = list(wiring.extra_files)
    if wiring.road == "subscribe":
        subscribe = f"{{ {quote(wiring.url)} }}"
    else:
        subscribe = "{}"
        files.append(str(wiring.overlay))
    lines = [
        "local shaper = shaping:setup_with_automation {",
        "  -- The sidecar reads the log files: no log hook.",
        "  publish = {},",
        f"  subscribe = {subscribe},",
    ]
    if files:
        lines += ["  extra_files = {", *(f"    {quote(name)}," for name in files), "  },"]
    return [*lines, "}"]


def _init(wiring: Wiring) -> list[str]:
    body = [
        "-- Needed although nothing is published: it starts the tasks that notice changes.",
        "shaper.setup_publish()",
    ]
    if wiring.road == "lua":
        directory = quote(str(wiring.overlay.parent))
        overlay = quote(wiring.overlay.name)
        body += [
            "",
            "-- Suspensions and bounces from the files beside the overlay.",
            f"tsa_sidecar.watch {{ directory = {directory}, overlay = {overlay} }}",
        ]
    if wiring.fast_log is not None:
        body += [
            "",
            "-- The log that you keep stays as it is, for instance:",
            f"kumo.configure_local_logs {{ log_dir = {quote(str(wiring.log_dir))} }}",
            "",
            "-- One more for the sidecar: what the rules are about, handed over every second.",
            *fast_log_lines(wiring.fast_log),
        ]
    indented = [f"  {line}" if line else "" for line in body]
    return ["kumo.on('init', function()", *indented, "end)"]


def _bottom() -> list[str]:
    return ["kumo.on('get_egress_path_config', shaper.get_egress_path_config)"]
