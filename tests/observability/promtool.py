"""Prometheus and promtool for the tests; where they have to be there, their absence is a failure."""

import os
import subprocess
from pathlib import Path

import pytest

from tools.observability import programs

_REQUIRE = "WAYMESH_REQUIRE_PROMETHEUS"


def needed(name: str, target: str, require: str) -> Path:
    """Where a program is that `make` gets; else the test is skipped, or fails if `require` is set."""
    found = programs.find(name)
    if found is not None:
        return found
    reason = f"no {name}: `make {target}` gets it"
    if os.environ.get(require):
        pytest.fail(f"{reason}; {require} is set", pytrace=False)
    pytest.skip(reason)


def program(name: str) -> Path:
    """Prometheus, or promtool."""
    return needed(name, "prometheus", _REQUIRE)


def promtool(*arguments: str | Path) -> str:
    """What it says; fails with that if it finds something wrong."""
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
