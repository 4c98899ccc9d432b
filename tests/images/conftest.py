"""Tools that look at locks and images, in an environment of their own."""

import subprocess
from pathlib import Path

import pytest

from tests.images.trees import ROOT


@pytest.fixture(scope="session")
def audit_tools() -> Path:
    """Folder of their programs, made as the Makefile makes it."""
    subprocess.run(["make", "--quiet", ".tools/audit/.made"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return ROOT / ".tools/audit/bin"
