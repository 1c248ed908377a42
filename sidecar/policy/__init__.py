"""The policy: ``tsa_init.lua``, run unchanged through lupa, as plain settings.

In: a Lua file and an environment.  Out: a frozen :class:`Policy`.  It has a warning for
each call that the sidecar has no use for.  An error in the Lua code is a ProblemError
with the Lua file and line.
"""

from sidecar.policy.exchange import Limits
from sidecar.policy.load import load_policy, load_settings
from sidecar.settings.said import LogLine, Policy, Said

__all__ = ["Limits", "LogLine", "Policy", "Said", "load_policy", "load_settings"]
