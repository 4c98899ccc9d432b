"""One HTTP call to a server that speaks OpenAI's chat completions, by the official client.

The body is written and the answer read here, by the client's own `post`: `chat.completions.create` builds and
checks models of pydantic for both, which takes longer than all the rest of a call to a server nearby, and
reads an answer of any size. Its retries are off; ours know of deadlines and budgets.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Final

import aiohttp
import httpx2  # comes with openai, whose raw answers are its own
import openai

from services.agents.llm import backoff
from services.agents.llm.answer import Answer, kind_of_code, kind_of_status, shown
from services.agents.llm.config import ModelsConfig
from services.agents.llm.events import DONE, EventLines
from services.agents.llm.kinds import CallError, ErrorKind
from services.mesh.redact import MASK

_PATH: Final = "/chat/completions"
# Of an error's body nothing further in is looked at.
_ERROR_BYTES: Final = 65_536
# An event of a stream holds a few words, and what frames them.
_FRAME_BYTES: Final = 65_536
# Events that are taken in before others have their turn: their text is read for numbers and links.
_EVENTS_AT_ONCE: Final = 16
# Servers close what was idle for 5 s (uvicorn, vLLM): a request that meets that is lost.
_IDLE_S: Final = 4.0
# How long to wait for the end of a stream after its last event, so that the connection can be used again.
_END_S: Final = 0.05


class Transport:
    """Connections to one server. Made in the loop that uses it; `close` when done."""

    def __init__(self, config: ModelsConfig, wall: Callable[[], float] = time.time) -> None:
        # They would write of every call what is in our own line, and more than that.
        for name in ("openai", "httpx2", "httpcore2"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._wall = wall
        self._limit_bytes = config.max_answer_bytes
        self._client = openai.AsyncOpenAI(
            api_key=config.api_key.get_secret_value(),
            base_url=config.base_url,
            max_retries=0,
            http_client=openai.DefaultAioHttpClient(
                # What a call may take in all is bounded around it.
                timeout=None,
                # One that answers elsewhere would get the key.
                follow_redirects=False,
                limits=httpx2.Limits(
                    max_connections=2 * config.max_concurrent_calls, keepalive_expiry=_IDLE_S
                ),
                event_hooks={"response": [_bound_error]},
            ),
        )
        self._options: Final[openai._types.RequestOptions] = {
            # Not compressed: a small answer could become a huge one.
            "headers": {"content-type": "application/json", "accept-encoding": "identity"},
        }

    async def call(self, body: bytes, answer: Answer, streamed: bool) -> None:
        """Sends `body` and fills `answer` as it comes. Raises CallError; nothing stays open in any case."""
        response = await self._send(body)
        try:
            kind = response.headers.get("content-type", "")
            if streamed and not kind.startswith("application/json"):
                await self._read_stream(response, answer)
            else:
                answer.whole(await self._read_whole(response))
        except (httpx2.HTTPError, aiohttp.ClientError, OSError) as error:
            raise CallError(
                ErrorKind.CONNECTION, f"ended in the middle of the answer: {_name(error)}"
            ) from None
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Ends all connections."""
        await self._client.close()

    async def _send(self, body: bytes) -> httpx2.Response:
        try:
            return await self._client.post(
                _PATH,
                cast_to=httpx2.Response,
                content=body,
                options=self._options,
                stream=True,
                stream_cls=openai.AsyncStream[object],
            )  # type: ignore[return-value] # typed as a stream; `cast_to` gives the answer itself
        except openai.APIStatusError as error:
            raise self._refused(error) from None
        except openai.APIConnectionError as error:
            cause = error.__cause__.__cause__ if error.__cause__ is not None else None
            unsent = isinstance(cause, aiohttp.ClientConnectorError)
            raise CallError(ErrorKind.CONNECTION, f"no answer: {_name(cause)}", unbilled=unsent) from None
        except (openai.OpenAIError, httpx2.HTTPError, aiohttp.ClientError, OSError) as error:
            raise CallError(ErrorKind.CONNECTION, f"no answer: {_name(error)}") from None

    def _refused(self, error: openai.APIStatusError) -> CallError:
        """An HTTP error as ours. Its text is left out: it may repeat the prompt, or the key."""
        headers = error.response.headers
        kind = kind_of_code(error.code, error.type) if error.status_code < 500 else None
        said = shown(error.code, error.type, error.param)
        return CallError(
            kind or kind_of_status(error.status_code),
            f"HTTP {error.status_code} {said}".rstrip().replace(self._client.api_key, MASK),
            retry_after_s=backoff.retry_after_s(headers, self._wall()),
            should_retry={"true": True, "false": False}.get(headers.get("x-should-retry", "")),
            unbilled=True,
        )

    async def _read_whole(self, response: httpx2.Response) -> bytes:
        data = bytearray()
        async with aclosing(response.aiter_bytes()) as pieces:
            async for piece in pieces:
                data += piece
                if len(data) > self._limit_bytes:
                    raise CallError(ErrorKind.OVERSIZED, f"more than {self._limit_bytes} bytes")
        return bytes(data)

    async def _read_stream(self, response: httpx2.Response, answer: Answer) -> None:
        lines = EventLines(self._limit_bytes + _FRAME_BYTES)
        async with aclosing(response.aiter_bytes()) as pieces:
            async for piece in pieces:
                for place, data in enumerate(lines.feed(piece), 1):
                    if place % _EVENTS_AT_ONCE == 0:
                        await asyncio.sleep(0)
                    if data == DONE:
                        await _end(pieces)
                        return
                    answer.add(data)
        if not answer.finish_reason:
            raise CallError(ErrorKind.CONNECTION, "the stream ended before the answer did")


async def _end(pieces: AsyncIterator[bytes]) -> None:
    """Reads what frames the end. The answer is complete: whatever comes of it is no matter."""
    try:
        async with asyncio.timeout(_END_S):
            await anext(pieces, None)
    except (TimeoutError, httpx2.HTTPError, aiohttp.ClientError, OSError):
        pass


def _name(error: BaseException | None) -> str:
    """An error by its class: its text holds addresses."""
    return type(error).__name__


class _Head(httpx2.AsyncByteStream):
    """The first bytes of an answer; the rest is not read."""

    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = _ERROR_BYTES
        async for piece in self._stream:
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                break

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _bound_error(response: httpx2.Response) -> None:
    """The client reads the body of an error whole, however large it is."""
    if response.status_code >= 300 and isinstance(response.stream, httpx2.AsyncByteStream):
        response.stream = _Head(response.stream)
