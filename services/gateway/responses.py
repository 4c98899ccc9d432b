"""Answers as the OpenAPI document tells them, whichever path they are of."""

from collections.abc import Mapping
from typing import Any, Final

from services.gateway.schema import Schema
from services.gateway.settings import GatewaySettings
from services.mesh.principal import ADMIN

Errors = Mapping[int, Schema]

# `body` and `head` are sizes that are set.
_TEXTS: Final[Mapping[int, str]] = {
    400: "Not JSON, a wrong type, an unknown field, or a rule that is broken: see `details`",
    401: "The API key is missing or not valid",
    403: "The key has no scope for this: see `reason`; or it is not permitted for another one",
    404: "The task, the path, or what the parameters name, is not known",
    406: "The task has no events, and the request accepts nothing else",
    409: "The same id came before with other content, or a concurrent change got in between",
    413: "The body is larger than {body}",
    415: "The content type is not application/json, or the body is compressed",
    429: "The key's rate, or what the tenant may have or spend, is used up: see `reason`",
    431: "The headers are larger than {head}",
    500: "A fault of ours; our logs hold the details under the request's id",
    501: "The service behind does not know this task",
    503: "Not now; the same request may succeed later",
    504: "The time for the request is used up",
}
_RETRY_AFTER: Final = frozenset({429, 503})
REQUEST_ID_HEADER: Final[Schema] = {
    "X-Request-Id": {
        "description": "The one that came with the request, or a new one.",
        "required": True,
        "schema": {"type": "string"},
    }
}
_RETRY_AFTER_HEADER: Final[Schema] = {
    "Retry-After": {
        "description": "Seconds after which to try again.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    }
}


def errors(settings: GatewaySettings) -> Errors:
    """By status, with the limits that are set."""
    sizes = {"body": _size(settings.max_body_bytes), "head": _size(settings.max_head_bytes)}
    return {status: _error(status, text.format_map(sizes)) for status, text in _TEXTS.items()}


def needs_scope(name: str, *, admin: bool) -> str:
    """What a key has to have."""
    return f"For operators: the key needs the scope `{ADMIN}`." if admin else f"Scope: `{name}`."


def request_id() -> dict[str, Any]:
    """The header that every operation takes."""
    return {
        "name": "X-Request-Id",
        "in": "header",
        "description": "For tracing only: 1 to 128 visible characters; else a new one is made.",
        "schema": {"type": "string"},
    }


def response(description: str, schema: Schema) -> Schema:
    """An answer in JSON."""
    return {
        "description": description,
        "headers": REQUEST_ID_HEADER,
        "content": {"application/json": {"schema": schema}},
    }


def _error(status: int, description: str) -> Schema:
    answer = response(description, {"$ref": "#/components/schemas/Error"})
    if status in _RETRY_AFTER:
        answer["headers"] = {**REQUEST_ID_HEADER, **_RETRY_AFTER_HEADER}
    return answer


def _size(count: int) -> str:
    """Bytes for people, never rounded: `2 MiB`, `1,000,001 bytes`."""
    for unit, shift in (("MiB", 20), ("KiB", 10)):
        if count % (1 << shift) == 0:
            return f"{count >> shift:,} {unit}"
    return f"{count:,} bytes"
