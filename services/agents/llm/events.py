"""Server-sent events as far as chat completions use them: the data of each, in lines of bounded length."""

from collections.abc import Iterator
from typing import Final

from services.agents.llm.kinds import CallError, ErrorKind

DONE: Final = b"[DONE]"


class EventLines:
    """Takes bytes in pieces of any size and gives back the data of every event that is complete.

    https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6; of its fields only `data`
    has a meaning here. An event longer than `limit_bytes` raises OVERSIZED.
    """

    __slots__ = ("_data", "_limit_bytes", "_rest")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._rest = b""
        self._data: list[bytes] = []

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The events that end in `data`."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            line = line.removesuffix(b"\r")
            if not line:
                if self._data:
                    event = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                    self._data.clear()
                    yield event
            elif line.startswith(b"data:"):
                self._data.append(line[5:].lstrip(b" "))
        if len(self._rest) + sum(map(len, self._data)) > self._limit_bytes:
            raise CallError(ErrorKind.OVERSIZED, f"an event of more than {self._limit_bytes} bytes")
