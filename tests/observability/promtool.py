"""Prometheus and promtool for the tests; where they have to be there, their absence is a failure."""

import os
import subprocess
from pathlib import Path

import pytest

from tools.observability import programs

_REQUIRE = "WAYMESH_REQUIRE_PROMETHEUS"


def program(name: str) -> Path:
    """Where it is; else the test is skipped, or fails if `WAYMESH_REQUIRE_PROMETHEUS` is set."""
    found = programs.find(name)
    if found is not None:
        return found
    reason = f"no {name}: `make prometheus` fetches it"
    if os.environ.get(_REQUIRE):
        pytest.fail(f"{reason}; {_REQUIRE} is set", pytrace=False)
    pytest.skip(reason)


def promtool(*arguments: str | Path) -> str:
    """What it says; fails with that if it finds something wrong."""
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr
