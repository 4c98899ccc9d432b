"""The end of a connection whose client may still be sending: it gets to read the last answer."""

import asyncio
from typing import Final

# What is read and thrown away of what nobody wants, so that its sender gets to see the answer.
DISCARD_BYTES: Final = 64 << 20


class Parting(asyncio.Protocol):
    """Takes over from a connection that listens no more: what still comes is read and thrown away.

    Closing at once, with bytes unread, would make the kernel send a reset, and a reset destroys an answer
    that the client has not read yet.
    """

    def __init__(self, transport: asyncio.Transport, owner: asyncio.Protocol) -> None:
        self._transport = transport
        self._owner = owner
        self._left = DISCARD_BYTES
        self._timer: asyncio.TimerHandle | None = None
        transport.set_protocol(self)
        transport.resume_reading()

    def end(self, wait_s: float) -> None:
        """Nothing is said any more either. The client has `wait_s` to see it and to hang up."""
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._transport.abort)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            # TLS has no half that closes: it says its farewell and throws away what still comes.
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        """Thrown away."""
        self._left -= len(data)
        if self._left < 0:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Told to the connection."""
        if self._timer is not None:
            self._timer.cancel()
        self._owner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Told to the connection, which may have answers to give."""
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        """Told to the connection."""
        self._owner.resume_writing()
