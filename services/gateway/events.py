"""A task as a stream of Server-Sent Events: the messages of its streaming RPC, each sent as it comes.

The format: https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Any, Final

from services.gateway.resume import Resume
from services.gateway.tasks import Stream
from services.mesh import json_codec
from services.mesh.chain.client.stream import StreamCall
from services.mesh.errors import MeshError

CONTENT_TYPE: Final = b"text/event-stream; charset=utf-8"
# Nobody on the way keeps events, or holds them back until there are more of them.
HEADERS: Final = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
ERROR: Final = "error"
# After one of these there is nothing more to be told.
_LAST: Final = frozenset({"result", ERROR})
# What an id may be, so that it comes back in a header as it went.
_ID: Final = re.compile(r"[\x21-\x7e]+")


def event(name: str, data: bytes, cursor: str = "") -> bytes:
    """One event. `data` is JSON, which has no line break outside of texts and none within."""
    head = f"id: {cursor}\nevent: {name}\n" if _ID.fullmatch(cursor) else f"event: {name}\n"
    return b"".join((head.encode(), b"data: ", data, b"\n\n"))


class EventStream:
    """The events of one task, in the order in which they come; at most one is held at a time.

    So a client that reads slowly slows down who tells of the run: the next message is asked for once the last
    one is on its way. `start` begins the call after a cursor; where the call breaks because its server is
    gone, or about to go, it is begun again after the last event that came. `told` makes of an error of the
    call the one that the client sees.
    """

    def __init__(
        self,
        start: Callable[[str], StreamCall],
        stream: Stream,
        cursor: str,
        resume: Resume,
        told: Callable[[MeshError], MeshError],
    ) -> None:
        self._start = start
        self._call = start(cursor)
        self._stream = stream
        self._cursor = cursor
        self._resume = resume
        self._told = told
        self._first: bytes | None = None
        # How often the call was begun again since the last event, and whether it ever was.
        self._tries = 0
        self._again = False
        # Whether the event that is the last has come.
        self._complete = False

    async def begin(self) -> None:
        """Waits for the first event. Raises MeshErrors: until now an answer can still be an error."""
        self._first = await self._read()
        if not self._again:
            self._resume.success()

    def __aiter__(self) -> "EventStream":
        return self

    async def __anext__(self) -> bytes:
        """The next event as it is sent. Raises MeshErrors."""
        first, self._first = self._first, None
        piece = first or await self._read()
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """Ends the call, if it has not ended by itself."""
        await self._call.aclose()

    async def _read(self) -> bytes | None:
        while True:
            try:
                response: Any = await anext(self._call)
                break
            except StopAsyncIteration:
                return None
            except MeshError as error:
                if self._complete:  # all has been told; how the call ends is no news
                    return None
                self._tries += 1
                wait_s = self._resume.wait_s(error, self._tries) if self._stream.repeatable else None
                if wait_s is None:
                    raise self._told(error) from error
            await asyncio.sleep(wait_s)
            self._call = self._start(self._cursor)
            self._again = True
        self._tries = 0
        self._cursor = response.cursor or self._cursor
        name = response.WhichOneof(self._stream.events) or "message"
        self._complete = self._complete or name in _LAST
        return event(name, json_codec.encode(response), response.cursor)
