"""A request as the bytes that go to a server."""

import json
import re
from typing import Any, Final

from services.agents.llm.request import ModelRequest
from services.agents.llm.schema import Shape

# OpenAI's models that think first take no temperature but the usual one.
_THINKS: Final = re.compile(r"(?:o\d|gpt-5)(?![.\d]*-chat)")

_STREAMED: Final = b',"stream":true,"stream_options":{"include_usage":true}}'


class Body:
    """The body of one request for any model; what all models have in common is written once."""

    __slots__ = ("_limit_field", "_request", "_shared")

    def __init__(self, request: ModelRequest, shape: Shape | None, limit_field: str) -> None:
        self._request = request
        self._limit_field = limit_field
        shared: dict[str, Any] = {"messages": request.messages}
        if request.tools:
            shared["tools"] = request.tools
        if shape is not None:
            shared["response_format"] = {
                "type": "json_schema",
                "json_schema": {
                    "name": request.schema_name,
                    "strict": shape.strict,
                    "schema": shape.asked,
                },
            }
        self._shared = _json(shared)[1:-1]

    def of(self, model: str) -> bytes:
        """All of the body but its last brace."""
        settings = self._request.settings
        own: dict[str, Any] = {"model": model}
        own[self._limit_field] = settings.max_output_tokens
        if _THINKS.match(model) is None:
            own["temperature"] = settings.temperature
        return _json(own)[:-1] + b"," + self._shared


def complete(body: bytes, streamed: bool) -> bytes:
    """The body as it is sent."""
    return body + (_STREAMED if streamed else b"}")


def _json(value: Any) -> bytes:
    # A lone surrogate, which a text may hold, has no UTF-8.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_plain)
    return text.encode(errors="replace")


def _plain(value: object) -> object:
    """Mappings that are no dicts."""
    if hasattr(value, "items"):
        return dict(value.items())
    raise TypeError(f"{type(value).__name__} cannot be sent to a model")
