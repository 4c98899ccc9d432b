"""What `kustomize build` makes of each overlay."""

import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
DEPLOY: Final = ROOT / "deploy" / "k8s"
OVERLAYS: Final = tuple(sorted(folder.name for folder in (DEPLOY / "overlays").iterdir() if folder.is_dir()))
KUSTOMIZE: Final = ROOT / ".tools" / "go" / "bin" / "kustomize"

Document = dict[str, Any]
"""One object as YAML says it."""


class DeployError(Exception):
    """A check that cannot be made; the text is one line."""


@cache
def rendered(overlay: str) -> str:
    """The YAML that `kubectl apply` would be given. Raises DeployError."""
    tool = _kustomize()
    built = subprocess.run(
        [tool, "build", DEPLOY / "overlays" / overlay], capture_output=True, text=True, check=False
    )
    if built.returncode != 0:
        raise DeployError(f"kustomize build {overlay}: {built.stderr.strip()}")
    return built.stdout


def documents(overlay: str) -> list[Document]:
    """The objects of an overlay. Fresh ones each time: a caller may change them."""
    return [document for document in yaml.safe_load_all(rendered(overlay)) if document is not None]


def distinct(overlays: Iterable[str]) -> list[Document]:
    """The objects of several overlays, each form of one once."""
    found = {yaml.safe_dump(each): each for overlay in overlays for each in documents(overlay)}
    return list(found.values())


def title(document: Document) -> str:
    """Kind and name, for messages."""
    return f"{document.get('kind')} {document.get('metadata', {}).get('name')}"


def make(target: str) -> None:
    """Has a tool built or installed that the Makefile knows. Raises DeployError."""
    made = subprocess.run(["make", "--no-print-directory", target], cwd=ROOT, capture_output=True, text=True)
    if made.returncode != 0:
        last = (made.stderr.strip() or made.stdout.strip() or "no output").splitlines()[-1]
        raise DeployError(f"make {target}: {last}")


@cache
def _kustomize() -> Path:
    make(str(KUSTOMIZE.relative_to(ROOT)))
    return KUSTOMIZE
