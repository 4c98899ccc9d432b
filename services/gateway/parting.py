"""The end of a connection whose client may still be sending: it gets to read the last answer."""

import asyncio
from collections.abc import Callable
from typing import Final

# What is read and thrown away of what nobody wants, so that its sender gets to see the answer.
DISCARD_BYTES: Final = 64 << 20


class Parting(asyncio.Protocol):
    """Takes a connection over: says that nothing more comes, and reads what does until the client ends it.

    Closing at once, with bytes unread, would make the kernel send a reset, and a reset destroys an answer
    that the client has not read yet. After `wait_s`, or when too much comes, it ends all the same.
    """

    def __init__(
        self, transport: asyncio.Transport, lost: Callable[[Exception | None], None], wait_s: float
    ) -> None:
        self._transport = transport
        self._lost = lost
        self._left = DISCARD_BYTES
        self._timer = asyncio.get_running_loop().call_later(wait_s, transport.abort)
        transport.set_protocol(self)
        transport.write_eof()
        transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Thrown away."""
        self._left -= len(data)
        if self._left < 0:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Told to the connection whose end this is."""
        self._timer.cancel()
        self._lost(exc)
