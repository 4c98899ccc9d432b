"""The wall clocks of the processes under test, each off by what the harness says."""

import struct
from pathlib import Path
from typing import Final

PRELOAD: Final = Path(__file__).parent / "preload"
"""Folder for PYTHONPATH; what lies there reads the clocks."""

_DOUBLE: Final = struct.Struct("d")


class Clocks:
    """One file per process name."""

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        self.folder = folder
        self._names = names
        folder.mkdir(parents=True)
        for name in names:
            self.set(name, 0.0)

    def set(self, name: str, offset_s: float) -> None:
        """From now on its clock is off by so many seconds, whenever it started or will start."""
        path = self.folder / f"{name}.clock"
        # Written in place: running processes have it mapped.
        with path.open("r+b" if path.exists() else "xb") as file:
            file.write(_DOUBLE.pack(offset_s))

    def right(self) -> None:
        """All of them as they should be."""
        for name in self._names:
            self.set(name, 0.0)
