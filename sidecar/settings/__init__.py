"""Settings: what can be set, in two kinds, and where each value came from.

In: the command line's options, the environment, and what the policy said
(:class:`Policy`, made by :mod:`sidecar.policy`).  Out: one frozen
:class:`Settings`, whose ``fixed`` part stands from start to end, while a
reload replaces its ``reloaded`` part.
"""

from .parse import (
    MERGE_LEVELS,
    MERGE_OPTIONS,
    RECORD_TYPES,
    did_you_mean,
    nearest,
    parse_address,
    parse_nameserver,
    parse_network,
    parse_port,
    parse_retention,
)
from .said import LogLine, Policy, Said
from .settle import policy_path, resolve_settings, restart_problem
from .table import (
    DEBUG,
    DEFAULT_POLICY,
    PREFIX,
    SETTINGS,
    Setting,
    environment_file,
    policy_keys,
    setting,
)
from .values import (
    LOOPBACK,
    Address,
    DnsSettings,
    Fixed,
    LogFormat,
    Network,
    Origin,
    Reloaded,
    Retention,
    Settings,
    Start,
)

__all__ = [
    "DEBUG",
    "DEFAULT_POLICY",
    "LOOPBACK",
    "MERGE_LEVELS",
    "MERGE_OPTIONS",
    "PREFIX",
    "RECORD_TYPES",
    "SETTINGS",
    "Address",
    "DnsSettings",
    "Fixed",
    "LogFormat",
    "LogLine",
    "Network",
    "Origin",
    "Policy",
    "Reloaded",
    "Retention",
    "Said",
    "Setting",
    "Settings",
    "Start",
    "did_you_mean",
    "environment_file",
    "nearest",
    "parse_address",
    "parse_nameserver",
    "parse_network",
    "parse_port",
    "parse_retention",
    "policy_keys",
    "policy_path",
    "resolve_settings",
    "restart_problem",
    "setting",
]
