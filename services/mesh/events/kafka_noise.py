"""What aiokafka says of an outage: hundreds of lines a minute, each a sign of the same trouble.

They are kept back, and whoever watches the cluster is told that something is wrong, and says it once.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from aiokafka.errors import KafkaError

_LIBRARY: Final = logging.getLogger("aiokafka")
_EXPECTED: Final = (KafkaError, OSError, TimeoutError, EOFError, asyncio.CancelledError)


class _Noise(logging.Handler):
    """Stands between the library's loggers and ours. With LOG_LEVEL=DEBUG everything passes."""

    def __init__(self) -> None:
        super().__init__()
        self.listeners: list[Callable[[], None]] = []

    def emit(self, record: logging.LogRecord) -> None:
        root = logging.getLogger()
        error = record.exc_info[1] if record.exc_info else None
        unexpected = error is not None and not isinstance(error, _EXPECTED)
        if unexpected or root.isEnabledFor(logging.DEBUG):
            root.handle(record)
        if record.levelno >= logging.WARNING:
            for listener in list(self.listeners):
                listener()


_noise: Final = _Noise()


def keep_back(listener: Callable[[], None]) -> None:
    """From now on; the listener is called instead of every line, in whatever task said it."""
    if not _noise.listeners:
        _LIBRARY.addHandler(_noise)
        _LIBRARY.propagate = False
    _noise.listeners.append(listener)


def let_through(listener: Callable[[], None]) -> None:
    """Undoes `keep_back`."""
    _noise.listeners.remove(listener)
    if not _noise.listeners:
        _LIBRARY.removeHandler(_noise)
        _LIBRARY.propagate = True
