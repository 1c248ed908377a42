"""pyproject.toml: what pip must be able to read before anything else can happen."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_an_extra_names_only_extras_that_exist() -> None:
    """One that does not exist makes every installation fail, also without extras."""
    extras = PROJECT["optional-dependencies"]
    itself = re.compile(re.escape(PROJECT["name"]) + r"\[([^\]]*)\]")
    named = {
        name.strip()
        for requirements in extras.values()
        for requirement in requirements
        for names in itself.findall(requirement)
        for name in names.split(",")
    }
    assert named <= extras.keys()
