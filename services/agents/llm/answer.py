"""What has come of an answer so far, whether it comes whole or in pieces."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from services.agents.llm.clean import Cleaner, clean
from services.agents.llm.kinds import CallError, ErrorKind
from services.agents.llm.reply import Tokens, ToolUse
from services.mesh.redact import redact_text

# OpenAI's rule of thumb for English text.
BYTES_PER_TOKEN: Final = 4
# More tools at once than anybody has; an index beyond would make a list of its size.
_MOST_CALLS: Final = 256
# Tokens that a call may take; more is a fault of the server.
_COUNTS: Final = range(10**9)

# Codes, types and names of parameters, as `rate_limit_exceeded` and `messages[0].content`.
_WORD: Final = re.compile(r"[a-z][a-z0-9_.\[\]]{0,47}")

_OF_CODE: Final[Mapping[str, ErrorKind]] = {
    "rate_limit_exceeded": ErrorKind.RATE_LIMITED,
    "insufficient_quota": ErrorKind.QUOTA,
    "context_length_exceeded": ErrorKind.CONTEXT_TOO_LONG,
    "content_filter": ErrorKind.CONTENT_FILTER,
    "content_policy_violation": ErrorKind.CONTENT_FILTER,
    "invalid_api_key": ErrorKind.UNAUTHORIZED,
    "model_not_found": ErrorKind.NOT_FOUND,
}


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)


class Answer:
    """Collects one answer, cleaned. `told` gets each piece of text as it comes.

    `limit_bytes` bounds what is kept; past it `add` and `whole` raise OVERSIZED.
    """

    __slots__ = (
        "_calls",
        "_cleaner",
        "_pieces",
        "_told",
        "finish_reason",
        "limit_bytes",
        "received",
        "refusal",
        "tokens",
    )

    def __init__(self, limit_bytes: int, told: Callable[[str], None] | None = None) -> None:
        self.limit_bytes = limit_bytes
        # Characters of text and arguments so far.
        self.received = 0
        self.finish_reason = ""
        self.refusal = False
        self.tokens: Tokens | None = None
        self._told = told
        self._pieces: list[str] = []
        self._cleaner = Cleaner()
        self._calls: dict[int, _Call] = {}

    @property
    def text(self) -> str:
        """All text so far."""
        return "".join(self._pieces)

    @property
    def tool_uses(self) -> tuple[ToolUse, ...]:
        """The tools asked for, in their order."""
        return tuple(
            ToolUse(clean(call.id) or f"call_{index}", clean(call.name), clean("".join(call.arguments)))
            for index, call in sorted(self._calls.items())
        )

    def whole(self, data: bytes) -> None:
        """Takes in the body of an answer that is not streamed."""
        body = parsed(data)
        refuse_error(body)
        self._usage(body)
        choice = _first(body)
        if choice is None:
            raise CallError(ErrorKind.MALFORMED, "no choices")
        message = choice.get("message")
        if not isinstance(message, dict):
            raise CallError(ErrorKind.MALFORMED, "a choice without a message")
        self._take(message)
        self._finish(choice)
        self._say(self._cleaner.rest())

    def add(self, data: bytes) -> None:
        """Takes in one event of a stream."""
        body = parsed(data)
        refuse_error(body)
        self._usage(body)
        choice = _first(body)
        if choice is None:  # the last one holds the usage alone, Azure's first one the filter's verdict
            return
        delta = choice.get("delta")
        if isinstance(delta, dict):
            self._take(delta)
        self._finish(choice)

    def estimate(self, sent_bytes: int, most_output: int) -> Tokens:
        """What it took, or may have taken, where the server has not said: no more than was allowed."""
        if self.tokens is not None:
            return self.tokens
        made = min(most_output, -(-self.received // BYTES_PER_TOKEN))
        return Tokens(-(-sent_bytes // BYTES_PER_TOKEN), made, estimated=True)

    def _take(self, message: dict[str, Any]) -> None:
        content = message.get("content")
        if isinstance(content, list):  # some servers answer in parts
            content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        if isinstance(content, str) and content:
            self._count(content)
            self._say(self._cleaner.feed(content))
        if message.get("refusal"):
            self.refusal = True
        calls = message.get("tool_calls")
        if isinstance(calls, list):
            for place, call in enumerate(calls):
                self._call(place, call)

    def _say(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            if self._told is not None:
                self._told(text)

    def _call(self, place: int, given: Any) -> None:
        function = given.get("function") if isinstance(given, dict) else None
        index = given.get("index", place) if isinstance(given, dict) else None
        if not isinstance(function, dict) or not isinstance(index, int) or not 0 <= index < _MOST_CALLS:
            raise CallError(ErrorKind.MALFORMED, "a tool call of no known form")
        call = self._calls.setdefault(index, _Call())
        if isinstance(name := function.get("name"), str) and name and not call.name:
            self._count(name)
            call.name = name
        if isinstance(said := given.get("id"), str) and said and not call.id:
            self._count(said)
            call.id = said
        arguments = function.get("arguments")
        if isinstance(arguments, dict):  # some servers give the object itself
            arguments = json.dumps(arguments)
        if isinstance(arguments, str) and arguments:
            self._count(arguments)
            call.arguments.append(arguments)

    def _finish(self, choice: dict[str, Any]) -> None:
        reason = choice.get("finish_reason")
        if isinstance(reason, str) and reason:
            self.finish_reason = clean(reason[:32])
            self._say(self._cleaner.rest())

    def _usage(self, body: dict[str, Any]) -> None:
        usage = body.get("usage")
        if isinstance(usage, dict):
            sent, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
            if isinstance(sent, int) and isinstance(made, int) and sent in _COUNTS and made in _COUNTS:
                self.tokens = Tokens(sent, made)

    def _count(self, text: str) -> None:
        self.received += len(text)
        if self.received > self.limit_bytes:
            raise CallError(ErrorKind.OVERSIZED, f"more than {self.limit_bytes} bytes")


def parsed(data: bytes | str) -> dict[str, Any]:
    """A JSON object. Raises MALFORMED."""
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        raise CallError(ErrorKind.MALFORMED, "not JSON") from None
    if not isinstance(body, dict):
        raise CallError(ErrorKind.MALFORMED, "not an object")
    return body


def refuse_error(body: Mapping[str, Any]) -> None:
    """Raises what an answer of status 200 says that it failed of."""
    error = body.get("error")
    if not error:
        return
    code = error.get("code") if isinstance(error, dict) else None
    kind = error.get("type") if isinstance(error, dict) else None
    found = kind_of_code(code, kind) or ErrorKind.SERVER_ERROR
    raise CallError(found, f"error in the answer {shown(code, kind)}".rstrip())


def kind_of_code(code: object, kind: object) -> ErrorKind | None:
    """What an error's `code` or `type` says; numbers are taken as HTTP statuses."""
    for said in (code, kind):
        if isinstance(said, str) and said in _OF_CODE:
            return _OF_CODE[said]
    try:
        status = int(str(code))
    except ValueError:
        return None
    return kind_of_status(status)


def kind_of_status(status: int) -> ErrorKind:
    """What an HTTP status says."""
    match status:
        case 429:
            return ErrorKind.RATE_LIMITED
        case 401 | 403:
            return ErrorKind.UNAUTHORIZED
        case 404:
            return ErrorKind.NOT_FOUND
        case 413:
            return ErrorKind.CONTEXT_TOO_LONG
        case 408 | 409:
            return ErrorKind.SERVER_ERROR
        case _ if status >= 500:
            return ErrorKind.SERVER_ERROR
        case _:
            return ErrorKind.BAD_REQUEST


def shown(*said: object) -> str:
    """What a server said, as far as it is words of the protocol: free text may repeat prompt or key."""
    return redact_text(" ".join(word for word in said if isinstance(word, str) and _WORD.fullmatch(word)))


def _first(body: Mapping[str, Any]) -> dict[str, Any] | None:
    choices = body.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        return choices[0]
    return None
