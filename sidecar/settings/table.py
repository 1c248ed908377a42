"""The table of settings: one row each.

A setting's option, its variable ``TSA_SIDECAR_*``, its key in
``sidecar.configure`` and its paragraph in the packaged environment file all
come from its row in :data:`SETTINGS`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidecar.log.record import SKIPPED_TYPES
from sidecar.problems import one_line

from .parse import (
    one_of,
    parse_count,
    parse_flag,
    parse_host_names,
    parse_listen,
    parse_merge_options,
    parse_nameservers,
    parse_networks,
    parse_notify,
    parse_path,
    parse_paths,
    parse_pattern,
    parse_poll,
    parse_record_types,
    parse_retention,
    parse_share,
    parse_share_host,
    parse_share_name,
    parse_span,
    parse_texts,
    parse_url,
)

PREFIX = "TSA_SIDECAR_"
"""How the name of every variable begins."""

DEBUG = PREFIX + "DEBUG"
"""A variable that is no setting: set, an error of the program's own ends with its traceback."""

FAULT = PREFIX + "FAULT"
"""A variable for tests: where the program is to be killed (:mod:`sidecar.faults`)."""

DEFAULT_POLICY = Path("/opt/kumomta/etc/policy/tsa_init.lua")
"""Where KumoMTA's packages keep the policy; used when it is there and none is named."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    ``name`` is also its key in ``sidecar.configure`` and, in capitals behind
    ``TSA_SIDECAR_``, its variable; ``parse`` turns a plain value into the
    checked one or raises ValueError; ``default`` is such a plain value;
    ``example`` is what the environment file shows.
    """

    name: str
    option: str
    parse: Callable[[object], Any]
    default: object
    help: str
    metavar: str
    example: str
    is_list: bool = False
    is_flag: bool = False
    empty_is_value: bool = False
    in_policy: bool = True

    def check(self, value: object) -> Any:
        """The checked value; ValueError with a reason of one printable line."""
        try:
            return self.parse(value)
        except ValueError as error:
            raise ValueError(one_line(str(error))) from None

    @property
    def variable(self) -> str:
        """The name of its environment variable."""
        return PREFIX + self.name.upper()

    @property
    def variables(self) -> tuple[str, ...]:
        """Its variable, and the spelling that follows the option (``_TRUSTED_HOST``)."""
        guess = PREFIX + self.option.removeprefix("--").replace("-", "_").upper()
        return (self.variable,) if guess == self.variable else (self.variable, guess)


SETTINGS: tuple[Setting, ...] = (
    Setting(
        "policy",
        "--policy",
        parse_path,
        None,
        "The policy file, KumoMTA's tsa_init.lua, read as it is. What it sets, options and "
        f"variables override. Unless given, {DEFAULT_POLICY} if it is there.",
        "FILE",
        str(DEFAULT_POLICY),
        in_policy=False,
    ),
    Setting(
        "shaping",
        "--shaping",
        parse_texts,
        (),
        "The shaping files with the rules, in merge order; files or http(s) URLs, instead of "
        "those that the policy loads.",
        "FILE|URL",
        "/opt/kumomta/share/policy-extras/shaping.toml /opt/kumomta/etc/policy/shaping.toml",
        is_list=True,
    ),
    Setting(
        "merge_options",
        "--merge-option",
        parse_merge_options,
        (),
        "Options of kumo.shaping.load as NAME=VALUE: aliased_site, dns_fail, local_load, null_mx, "
        "provider_overlap and remote_load take Ignore, Warn or Error; skip_remote takes true or "
        "false; http_timeout takes a duration without blanks.",
        "NAME=VALUE",
        "dns_fail=Warn http_timeout=10s",
        is_list=True,
    ),
    Setting(
        "ttl",
        "--ttl",
        parse_span,
        "5 minutes",
        "How long shaping data read from URLs is kept before it is read again. (Files are "
        "read again when they change.)",
        "DURATION",
        "5 minutes",
    ),
    Setting(
        "dns_zones",
        "--dns-zone",
        parse_paths,
        (),
        "Master files to answer DNS from, and from nothing else: names in none of them do not "
        "exist. For tests.",
        "FILE",
        "/etc/tsa-sidecar/example.zone",
        is_list=True,
    ),
    Setting(
        "nameservers",
        "--nameserver",
        parse_nameservers,
        (),
        "Name servers to ask instead of the system's, as IP or IP:PORT.",
        "IP[:PORT]",
        "127.0.0.1 [::1]:5353",
        is_list=True,
    ),
    Setting(
        "log_dir",
        "--log-dir",
        parse_path,
        "/var/log/kumomta",
        "kumod's log directory, the log_dir of kumo.configure_local_logs.",
        "DIR",
        "/var/log/kumomta",
    ),
    Setting(
        "pattern",
        "--pattern",
        parse_pattern,
        "*",
        "Which files of the log directory are segments, as a glob on their names. Names that "
        "begin with a dot never are.",
        "GLOB",
        "*",
    ),
    Setting(
        "from",
        "--from",
        one_of("recent", "end", "beginning"),
        "recent",
        "Where to begin without a saved position: recent (far enough back for everything that "
        "could still be in force), end, or beginning.",
        "recent|end|beginning",
        "recent",
    ),
    Setting(
        "skip_record_types",
        "--skip-record-type",
        parse_record_types,
        SKIPPED_TYPES,
        "Record types that no rule sees, instead of KumoMTA's own choice; empty: none is skipped.",
        "TYPE",
        ",".join(sorted(SKIPPED_TYPES)),
        is_list=True,
        empty_is_value=True,
    ),
    Setting(
        "additional_skip_record_types",
        "--additional-skip-record-type",
        parse_record_types,
        (),
        "Record types that no rule sees, on top of skip_record_types.",
        "TYPE",
        "Feedback,OOB",
        is_list=True,
    ),
    Setting(
        "overlay",
        "--overlay",
        parse_path,
        "/opt/kumomta/etc/tsa-sidecar/shaping.toml",
        "The overlay file that kumod reads through extra_files.",
        "FILE",
        "/opt/kumomta/etc/tsa-sidecar/shaping.toml",
    ),
    Setting(
        "state",
        "--state",
        parse_path,
        "/var/lib/tsa-sidecar/state.db",
        "The SQLite file that keeps log positions, thresholds and entries in force.",
        "FILE",
        "/var/lib/tsa-sidecar/state.db",
    ),
    Setting(
        "listen",
        "--listen",
        parse_listen,
        "127.0.0.1:8008",
        "Where the page, /metrics and what kumod's subscribe asks for are served by HTTP: "
        "HOST:PORT, [IPv6]:PORT, :PORT for every IPv4 interface, or none for no listener.",
        "HOST:PORT",
        "127.0.0.1:8008",
    ),
    Setting(
        "trusted_hosts",
        "--trusted-host",
        parse_networks,
        ("127.0.0.1", "::1"),
        "Who may connect, as addresses and CIDR blocks. Needed when listening on an address "
        "that others can reach.",
        "CIDR",
        "127.0.0.1 ::1 10.0.0.0/8",
        is_list=True,
    ),
    Setting(
        "allowed_hosts",
        "--allowed-host",
        parse_host_names,
        (),
        "The host names by which the listener may be asked, besides addresses, localhost and the "
        "name in --listen: that in kumod's subscribe URL, if it is a name. Others are refused, so "
        "that no web page can read the overlay through a browser.",
        "NAME",
        "tsa.example.com",
        is_list=True,
    ),
    Setting(
        "kumod_api",
        "--kumod-api",
        parse_url,
        False,
        "The URL of kumod's own HTTP listener; given, changes are pushed to its admin API at once.",
        "URL",
        "http://127.0.0.1:8000",
    ),
    Setting(
        "simulate",
        "--simulate",
        parse_flag,
        False,
        "Publish nothing: rules match, entries are counted and listed, and kumod is neither "
        "called nor given a file. No overlay is written, nobody is told, nothing is deleted: "
        "--kumod-api, --notify and --retention count for nothing. There is a listener only with "
        "--listen or its variable. The state file is one of its own (state.simulated.db) unless "
        "one is named; a file of a real run is refused.",
        "true|false",
        "true",
        is_flag=True,
    ),
    Setting(
        "notify",
        "--notify",
        parse_notify,
        False,
        "The file that names who is told when an entry begins and ends: commands, webhooks, mail "
        "and chat. Off unless given. A reload reads it again.",
        "FILE",
        "/etc/tsa-sidecar/notify.toml",
    ),
    Setting(
        "retention",
        "--retention",
        parse_retention,
        False,
        "Delete finished segments that are wholly processed: older than an age (7 days), or "
        "beyond a total size (2 GB). Off unless given; only for a log that nobody else needs.",
        "AGE|SIZE",
        "7 days",
    ),
    Setting(
        "max_entries",
        "--max-entries",
        parse_count,
        50_000,
        "How many entries may be in force, and as many counts of thresholds go on. Past it new "
        "ones are counted and left out, since a remote side can cause them; those there are stay.",
        "COUNT",
        "50000",
    ),
    Setting(
        "history",
        "--history",
        parse_span,
        "30 days",
        "How long the history tells of what is in force no more; of more than 50,000 episodes "
        "the latest are kept.",
        "DURATION",
        "30 days",
    ),
    Setting(
        "share",
        "--share",
        parse_share,
        False,
        "The URL of a Redis or Valkey through which the sidecars of several hosts decide together: "
        "redis://, rediss:// (TLS), unix://, redis+sentinel:// or redis+cluster://. Off unless "
        "given. A password belongs into --share-password-file, or the URL into the variable.",
        "URL",
        "redis://10.0.0.5:6379",
    ),
    Setting(
        "share_name",
        "--share-name",
        parse_share_name,
        "mail",
        "What the group is called that shares: hosts with the same name on the same engine.",
        "NAME",
        "mail",
    ),
    Setting(
        "share_host",
        "--share-host",
        parse_share_host,
        False,
        "What this host is called in the group; each host has a name of its own. The machine's "
        "host name unless given.",
        "NAME",
        "mx1",
    ),
    Setting(
        "share_sources",
        "--share-sources",
        one_of("all", "own"),
        "all",
        "Whose options the overlay has: all, or own, which leaves those of egress sources out that "
        "no record of this host's own log has shown. Suspensions and bounces hold either way.",
        "all|own",
        "all",
    ),
    Setting(
        "share_password_file",
        "--share-password-file",
        parse_notify,
        False,
        "A file with the password for --share, on one line.",
        "FILE",
        "/etc/tsa-sidecar/share-password",
    ),
    Setting(
        "share_most",
        "--share-most",
        parse_count,
        1_000_000,
        "How many lines the engine keeps for the group at most; about 1.5 kB each.",
        "COUNT",
        "1000000",
    ),
    Setting(
        "poll",
        "--poll",
        parse_poll,
        "1s",
        "How often the log directory is looked at where the file system sends no events.",
        "SECONDS",
        "1s",
    ),
    Setting(
        "log_format",
        "--log-format",
        one_of("text", "json"),
        "text",
        "How the sidecar writes its own log lines: text or json.",
        "text|json",
        "text",
    ),
)
"""Every setting, in the order in which the environment file shows them."""


def setting(name: str) -> Setting:
    """The row called `name`; KeyError when there is none."""
    for row in SETTINGS:
        if row.name == name:
            return row
    raise KeyError(name)


def policy_keys() -> tuple[str, ...]:
    """The keys that ``sidecar.configure`` takes."""
    return tuple(row.name for row in SETTINGS if row.in_policy)


def environment_file() -> str:
    """The packaged environment file (systemd's EnvironmentFile): every setting, commented out."""
    lines = [
        "# Settings of tsa-sidecar. A command line option wins over a variable here, a variable",
        "# over the policy, the policy over the default. Lists are separated by blanks; put an",
        "# item that holds a blank into quotes inside the quotes: \"one 'two three'\".",
    ]
    for row in SETTINGS:
        text = f"{row.option}: {row.help}"
        lines += ["", *textwrap.wrap(text, 96, initial_indent="# ", subsequent_indent="# ")]
        value = f'"{row.example}"' if " " in row.example or "*" in row.example else row.example
        lines.append(f"#{row.variable}={value}")
    return "\n".join(lines) + "\n"
