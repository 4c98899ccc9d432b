"""One connection of the mock: HTTP in, scripted bytes out."""

import asyncio
import json
import socket
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import httptools

from tests.mock_openai import answers
from tests.mock_openai.script import Fault, Script

if TYPE_CHECKING:
    from tests.mock_openai.server import MockOpenAI

_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_DRIP = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
_DRIP_BYTES = 32

_Body = dict[str, Any]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Connection(asyncio.Protocol):
    """Answers one request at a time; a request that needs no waiting needs no task."""

    def __init__(self, server: "MockOpenAI") -> None:
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._begin()

    def _begin(self) -> None:
        self._url = b""
        self._body: list[bytes] = []
        self._headers: dict[str, str] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._server.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._may_write.set()
        if self._task is not None:
            self._task.cancel()
        self._server.disconnected(self)

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        path, headers, body = self._url.decode(), self._headers, b"".join(self._body)
        self._begin()
        if path.endswith("/models"):
            self._write(answers.response(200, self._server.models()))
        elif not path.endswith("/chat/completions"):
            self._write(answers.response(404, b'{"error":{"message":"no such path"}}'))
        else:
            self._complete(path, headers, body)

    def close(self) -> None:
        """Ends the connection as a reset."""
        if self._transport is None:
            return
        end = self._transport.get_extra_info("socket")
        if end is not None:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _complete(self, path: str, headers: dict[str, str], data: bytes) -> None:
        request: dict[str, Any] = json.loads(data)
        script = self._server.began(path, headers, request)
        fault = script.fault
        later = fault in (Fault.RESET_BEFORE, Fault.NEVER_ANSWERS, Fault.SLOW_DRIP)
        if later or script.delay_s or script.held is not None:
            self._play_later(script, headers, request, len(data))
        elif (failed := answers.error(script, headers.get("authorization", ""))) is not None:
            self._write(failed)
            self._server.ended()
        elif request.get("stream") or fault in (Fault.RESET_MIDWAY, Fault.STALLS_MIDWAY, Fault.ENDS_EARLY):
            self._play_later(script, headers, request, len(data))
        else:
            self._write(
                answers.response(200, answers.whole(script, request, len(data)), dict(script.headers))
            )
            self._server.ended()

    def _play_later(self, script: Script, headers: dict[str, str], request: _Body, size: int) -> None:
        self._task = asyncio.get_running_loop().create_task(self._play(script, headers, request, size))
        # Not in the task itself: one that is cancelled before it begins ends without a word.
        self._task.add_done_callback(self._played)

    def _played(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._server.abandoned += task.cancelled()
        self._server.ended()

    async def _play(self, script: Script, headers: dict[str, str], request: _Body, size: int) -> None:
        if script.held is not None:
            await script.held.wait()
        if script.delay_s:
            await asyncio.sleep(script.delay_s)
        if script.fault is Fault.NEVER_ANSWERS:
            await asyncio.get_running_loop().create_future()
        if script.fault is Fault.RESET_BEFORE:
            self.close()
            return
        failed = answers.error(script, headers.get("authorization", ""))
        if failed is not None:
            self._write(failed)
        elif request.get("stream"):
            await self._stream(script, answers.events(script, request, size))
        else:
            await self._whole(script, answers.whole(script, request, size))

    async def _stream(self, script: Script, events: Iterator[bytes]) -> None:
        self._write(_STREAM)
        pieces = list(events)
        half = (len(pieces) + 1) // 2
        for place, piece in enumerate(pieces):
            if place == half:
                if script.fault is Fault.RESET_MIDWAY:
                    # What was written so far shall arrive: a reset throws away what waits in the buffers.
                    await asyncio.sleep(0.01)
                    self.close()
                    return
                if script.fault is Fault.STALLS_MIDWAY:
                    await asyncio.get_running_loop().create_future()
                if script.fault is Fault.ENDS_EARLY:
                    break
            if script.fault is Fault.SLOW_DRIP:
                await asyncio.sleep(script.piece_delay_s)
            await self._may_write.wait()
            self._write(_chunk(piece))
        if script.fault is Fault.NEVER_ENDS:
            await asyncio.get_running_loop().create_future()
        # Most servers learn only now that it was the last: its end comes in a segment of its own.
        await asyncio.sleep(0)
        self._write(b"0\r\n\r\n")

    async def _whole(self, script: Script, body: bytes) -> None:
        response = answers.response(200, body, dict(script.headers))
        if script.fault in (Fault.RESET_MIDWAY, Fault.STALLS_MIDWAY, Fault.ENDS_EARLY):
            self._write(response[: len(response) - len(body) // 2])
            if script.fault is Fault.STALLS_MIDWAY:
                await asyncio.get_running_loop().create_future()
            await asyncio.sleep(0.01)
            if script.fault is Fault.ENDS_EARLY and self._transport is not None:
                self._transport.close()
            else:
                self.close()
        elif script.fault is Fault.SLOW_DRIP:
            self._write(_DRIP)
            for at in range(0, len(body), _DRIP_BYTES):
                await asyncio.sleep(script.piece_delay_s)
                self._write(_chunk(body[at : at + _DRIP_BYTES]))
            self._write(b"0\r\n\r\n")
        else:
            self._write(response)

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)
