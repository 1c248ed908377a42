"""The program under test as it is installed: a process of its own, compiled once."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.measure import Usage, run
from tests.bench.rulefiles import write_zone

_ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True, slots=True)
class Sidecar:
    """How to call it: with which rules, in which scratch directory."""

    rules: tuple[Path, ...]
    zone: Path
    scratch: Path

    @classmethod
    def create(cls, rules: Sequence[Path], scratch: Path) -> Sidecar:
        """With a zone for every domain in `rules`."""
        scratch.mkdir(parents=True, exist_ok=True)
        return cls(tuple(rules), write_zone(rules, scratch / "zone"), scratch)

    @property
    def overlay(self) -> Path:
        """Where it writes the overlay."""
        return self.scratch / "published" / "overlay.toml"

    @property
    def state(self) -> Path:
        """Its state file."""
        return self.scratch / "state" / "tsa-sidecar.db"

    @property
    def env(self) -> dict[str, str]:
        """Compiled modules are kept, as an installer does, but not in the source tree."""
        env = {k: v for k, v in os.environ.items() if not k.startswith(("TSA_SIDECAR", "PYTHON"))}
        return env | {
            "PYTHONPATH": str(_ROOT),
            "PYTHONPYCACHEPREFIX": str(self.scratch.parent / "pycache"),
        }

    def command(self, log_dir: Path, *more: str) -> list[str]:
        """``tsa-sidecar run`` on `log_dir`."""
        options = [("--shaping", rules) for rules in self.rules]
        options += [
            ("--dns-zone", self.zone),
            ("--log-dir", log_dir),
            ("--overlay", self.overlay),
            ("--state", self.state),
            ("--from", Path("beginning")),
        ]
        flat = [str(part) for option in options for part in option]
        return [sys.executable, "-m", "sidecar", "run", *flat, *more]

    def forget(self) -> None:
        """Remove what earlier runs left."""
        for directory in (self.overlay.parent, self.state.parent):
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(parents=True)

    def once(self, log_dir: Path, *, at_s: int, keep: bool = False) -> Usage:
        """Read all of `log_dir`, as at the moment `at_s`, and end; `keep` what there was."""
        if not keep:
            self.forget()
        return run(self.command(log_dir, "--once", "--no-listen", "--at", str(at_s)), env=self.env)
