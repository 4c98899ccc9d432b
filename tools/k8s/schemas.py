"""Kubernetes' own kinds against its schemas, strict: a field that does not exist is an error."""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tools.k8s.render import ROOT, Document, make

VERSIONS: Final = ("1.34.0", "1.37.0")
"""The oldest that has all we use (preStop sleep), and the newest that the tool knows."""

BIN: Final = ROOT / ".tools" / "deploy" / "bin"


def is_builtin(document: Document) -> bool:
    """Whether Kubernetes itself knows the kind: `v1`, `apps/v1`, `policy/v1`, `networking.k8s.io/v1`."""
    group, _, version = str(document.get("apiVersion")).rpartition("/")
    if group == "gateway.networking.k8s.io":
        return False
    return not group or "." not in group or (group.endswith(".k8s.io") and bool(version))


def faults(documents: Sequence[Document]) -> list[str]:
    """What is wrong with them, a line each; none if nothing is. Raises DeployError."""
    make(".tools/deploy/.installed")
    known = [document for document in documents if is_builtin(document)]
    found: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "objects.yaml"
        file.write_text("---\n".join(f"{json.dumps(each)}\n" for each in known))  # which is YAML
        for version in VERSIONS:
            done = subprocess.run(
                [BIN / "kubernetes-validate", "--strict", "-k", version, file],
                capture_output=True,
                text=True,
                check=False,
            )
            told = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
            # A kind without a schema is only a warning to it: here each has to be told of as passed.
            wrong = [line for line in told if not line.startswith("INFO ")]
            passed = sum("passed" in line for line in told if line.startswith("INFO "))
            found += [f"{version}: {line}" for line in wrong]
            if not wrong and (done.returncode != 0 or passed != len(known)):
                found.append(f"{version}: {passed} of {len(known)} objects were looked at")
    return found
