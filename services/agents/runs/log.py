"""What happened in one run of this process, for any number of readers, each from where it is.

A reader that keeps up gets each piece of text as it came. For one that does not, what has gathered is one
piece: nothing is kept per piece, so a slow reader costs no more than the text does.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from waymesh.agent.v1.agent_service_pb2 import StreamRunResponse

from services.agents.runs import bounds
from services.agents.runs.cursors import Position
from services.mesh.redact import redact_text

# Beyond these nothing more is kept, and the result says that the text before is not the whole.
MAX_CHARS: Final = 256 * 1024
MAX_EVENTS: Final = 2_000
# Pieces are added to one text up to here; the longest that a slow reader gets at once.
_SEGMENT_CHARS: Final = 1_024


@dataclass(slots=True)
class _Event:
    """Behind it, `number` events have been told."""

    number: int
    response: StreamRunResponse
    kept: bool


@dataclass(slots=True)
class _Text:
    """Before it, `start` characters have been told."""

    start: int
    text: str


class EventLog:
    """Events of one run, in memory, until its buffer is dropped. The first is `accepted`."""

    def __init__(self, accepted: StreamRunResponse) -> None:
        self.read = False
        self.told: list[int] = []
        self._entries: list[_Event | _Text] = [_Event(1, accepted, True)]
        self._events = 1
        self._chars = 0
        self._open = False
        self._whole = True
        self._last: StreamRunResponse | None = None
        self._moved: asyncio.Future[None] | None = None

    @property
    def whole(self) -> bool:
        """Whether all text is there."""
        return self._whole

    @property
    def size_bytes(self) -> int:
        """What its events take, about."""
        events = sum(each.response.ByteSize() for each in self._entries if isinstance(each, _Event))
        return self._chars + events + (self._last.ByteSize() if self._last is not None else 0)

    @property
    def ended(self) -> bool:
        """Whether the last event is there."""
        return self._last is not None

    def open(self) -> None:
        """The run is recorded: from now on its readers may know of it."""
        self._open = True
        self._wake()

    def add(self, response: StreamRunResponse) -> None:
        """An event, or a piece of text."""
        kind = response.WhichOneof("event")
        if kind == "token":
            self.add_text(response.token.text)
            return
        if self._events >= MAX_EVENTS or self.ended:
            return
        if kind == "tool_call":
            self.told.append(response.tool_call.step)
        elif kind == "tool_result":
            self.told.append(-response.tool_result.step)
        self._events += 1
        self._entries.append(_Event(self._events, response, kept=False))
        self._wake()

    def add_text(self, text: str) -> None:
        """A piece of the answer's text."""
        if not text or self.ended or not self._whole:
            return
        if self._chars + len(text) > MAX_CHARS:
            self._whole = False
            return
        last = self._entries[-1]
        if isinstance(last, _Text) and len(last.text) < _SEGMENT_CHARS:
            last.text += text
        else:
            self._entries.append(_Text(self._chars, text))
        self._chars += len(text)
        self._wake()

    def end(self, last: StreamRunResponse) -> None:
        """The answer or the error; nothing comes after it."""
        self._last = last
        self._open = True
        self._wake()

    def knows(self, seen: Position) -> bool:
        """Whether this log can have told that much."""
        return seen.events <= self._events and seen.chars <= self._chars and (self.ended or not seen.last)

    async def follow(
        self, seen: Position, silence_s: float
    ) -> AsyncIterator[tuple[Position, StreamRunResponse | None]]:
        """What came after `seen`, up to the last event; None after each `silence_s` in which nothing came.

        The messages belong to the log: a reader changes nothing in them.
        """
        self.read = True
        place = 0
        while not seen.last:
            if self._open:
                while place < len(self._entries):
                    entry = self._entries[place]
                    told = self._after(entry, seen)
                    if told is not None:
                        seen, response = told
                        yield seen, response
                        # The text may have grown meanwhile.
                        continue
                    if place == len(self._entries) - 1 and isinstance(entry, _Text):
                        break
                    place += 1
                if self._last is not None:
                    yield Position(seen.events, seen.chars, last=True), self._last
                    return
            if not await self._wait(silence_s):
                yield seen, None

    def _after(self, entry: _Event | _Text, seen: Position) -> tuple[Position, StreamRunResponse] | None:
        """What of this entry has not been seen, and how much has been behind it."""
        if isinstance(entry, _Event):
            if entry.number <= seen.events:
                return None
            if not entry.kept:
                # Only now: most runs have no reader. Whoever reads later from the store sees the same.
                entry.response = _kept(entry.response)
                entry.kept = True
            return Position(entry.number, seen.chars), entry.response
        fresh = entry.text[max(0, seen.chars - entry.start) :]
        if not fresh:
            return None
        response = StreamRunResponse()
        response.token.text = fresh
        return Position(seen.events, entry.start + len(entry.text)), response

    async def _wait(self, seconds: float) -> bool:
        """Whether something came within this time."""
        if self._moved is None:
            self._moved = asyncio.get_running_loop().create_future()
        done, _ = await asyncio.wait([self._moved], timeout=seconds)
        return bool(done)

    def _wake(self) -> None:
        moved, self._moved = self._moved, None
        if moved is not None and not moved.done():
            moved.set_result(None)


def _kept(response: StreamRunResponse) -> StreamRunResponse:
    kept = StreamRunResponse()
    kept.CopyFrom(response)
    if kept.HasField("tool_call"):
        kept.tool_call.arguments.CopyFrom(bounds.kept_struct(response.tool_call.arguments))
    elif kept.HasField("tool_result"):
        told = kept.tool_result
        if told.HasField("result"):
            told.result.CopyFrom(bounds.kept_struct(response.tool_result.result))
        if told.HasField("error"):
            told.error.message = redact_text(told.error.message)
    return kept
