"""Policy: ``tsa_init.lua``, run as it is through lupa, turned into plain settings.

In: a Lua file and an environment.  Out: a frozen :class:`Policy`; what the
sidecar has no use for is a warning in it, an error in the Lua code a
ProblemError with the Lua file and line.
"""

from sidecar.policy.exchange import Limits
from sidecar.policy.load import load_policy, load_settings
from sidecar.settings.said import LogLine, Policy, Said

__all__ = ["Limits", "LogLine", "Policy", "Said", "load_policy", "load_settings"]
