"""Fault points: named steps at which a test can kill the process.

In production this is one comparison with None per step.  With
``TSA_SIDECAR_FAULT=STEP:N`` in the environment the process kills itself
(SIGKILL) the Nth time it comes to that step.
"""

from __future__ import annotations

import os
import signal

STEPS = (
    "batch-read",
    "batch-decided",
    "waited-decided",
    "before-commit",
    "after-commit",
    "before-publish",
    "overlay-written",
    "after-publish",
)
"""The steps between reading a batch and having published it, in order."""

NOTIFY_STEPS = ("notify-sent", "notify-noted")
"""The steps between sending a notification and having noted that it was sent."""

SHARE_STEPS = ("peers-decided", "portions-offered", "word-said")
"""What is done with a group: others' lines, own lines, an operator's word."""


class FaultPoint:
    """Counts how often a step is reached and strikes at the right time."""

    __slots__ = ("_left", "_step")

    def __init__(self, setting: str | None) -> None:
        self.arm(setting)

    def arm(self, setting: str | None) -> None:
        """Strike as `setting` (``STEP:N``) says; None: never."""
        self._step: str | None = None
        self._left = 0
        if setting:
            step, _, count = setting.partition(":")
            if step not in STEPS + NOTIFY_STEPS + SHARE_STEPS:
                known = ", ".join(STEPS + NOTIFY_STEPS + SHARE_STEPS)
                raise ValueError(f"TSA_SIDECAR_FAULT: no step {step!r}; steps: {known}")
            self._step, self._left = step, int(count or "1")

    def __call__(self, step: str) -> None:
        """Say that `step` has been reached."""
        if self._step == step:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


reached = FaultPoint(os.environ.get("TSA_SIDECAR_FAULT"))
"""Call it with the name of a step."""
