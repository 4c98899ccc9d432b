"""docker-compose.yaml as Docker Compose reads it."""

import functools
import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.images.trees import ROOT

FILE = ROOT / "docker-compose.yaml"
_CHECK = ".tools/go/bin/compose-check"


@functools.cache
def project(*variables: str) -> dict[str, Any]:
    """Of its own loader: the schema is checked, variables are put in, references are followed."""
    if shutil.which("go") is None and not (ROOT / _CHECK).exists():
        pytest.skip("Go is not here to build Compose's loader with", allow_module_level=True)
    subprocess.run(["make", "--quiet", _CHECK], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run([ROOT / _CHECK, FILE, *variables], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = project()["services"][name]
    return found
