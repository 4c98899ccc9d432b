"""What `kustomize build` makes of each overlay."""

import contextlib
import fcntl
import json
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

# By libyaml where it is there: ten times as fast.
_Loader: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

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
    loaded = yaml.load_all(rendered(overlay), Loader=_Loader)
    return [document for document in loaded if document is not None]


def distinct(overlays: Iterable[str]) -> list[Document]:
    """The objects of several overlays, each form of one once."""
    found = {json.dumps(each, sort_keys=True): each for overlay in overlays for each in documents(overlay)}
    return list(found.values())


def load(text: str) -> Any:
    """One document of YAML."""
    return yaml.load(text, Loader=_Loader)


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
