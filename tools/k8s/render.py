"""What `kustomize build` makes of each overlay."""

import contextlib
import fcntl
import subprocess
from collections.abc import Iterable, Iterator
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
    tool = kustomize()
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


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One process at a time fetches and builds; others find it done."""
    (ROOT / ".tools").mkdir(exist_ok=True)
    with (ROOT / ".tools" / "k8s.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def make(target: str) -> None:
    """Has a tool built or installed that the Makefile knows. Raises DeployError."""
    command = ["make", "--no-print-directory", target]
    with alone():
        made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        last = (made.stderr.strip() or made.stdout.strip() or "no output").splitlines()[-1]
        raise DeployError(f"make {target}: {last}")


@cache
def kustomize() -> Path:
    """The program, built when it is first asked for. Raises DeployError."""
    make(str(KUSTOMIZE.relative_to(ROOT)))
    return KUSTOMIZE
