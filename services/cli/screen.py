"""What `up` says in the terminal: one line per change of state."""

import json
import sys
import time
from typing import Final, TextIO

_COLORS: Final = {"ready": "32", "failing": "33", "crashed": "31", "stopped": "2", "starting": "2"}


class Screen:
    """Writes whole lines at once; a closed terminal is no reason to stop."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._color = self._stream.isatty()

    def change(self, name: str, state: str, detail: str = "") -> None:
        """`12:00:00  eta       ready     127.0.0.1:50051 (1.2 s)`."""
        word = f"{state:<9}"
        if self._color and state in _COLORS:
            word = f"\x1b[{_COLORS[state]}m{word}\x1b[0m"
        self.line(f"{time.strftime('%H:%M:%S')}  {name:<9} {word} {detail}".rstrip())

    def log(self, service: str, line: bytes) -> None:
        """A service's log line, in short."""
        text = line.decode("utf-8", "replace")
        try:
            entry = json.loads(text)
            took = entry.get("duration_ms")
            text = f"{entry['level']:<7} {entry['message']}" + (f" ({took} ms)" if took is not None else "")
        except (ValueError, KeyError, TypeError):
            pass
        self.line(f"{time.strftime('%H:%M:%S')}  {service:<9} {text}")

    def line(self, text: str = "") -> None:
        """One line as it is."""
        try:
            self._stream.write(text + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            pass
