"""Where Prometheus and the collector are: built by make, fetched by make, or on the machine."""

import shutil
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
# Our own builds come first: their versions are the ones we name.
_FOLDERS: Final = (ROOT / ".tools/go/bin", ROOT / ".tools/prometheus/usr/bin")


def find(name: str) -> Path | None:
    """The program of this name; None if there is none."""
    for folder in _FOLDERS:
        if (folder / name).exists():
            return folder / name
    found = shutil.which(name)
    return None if found is None else Path(found)
