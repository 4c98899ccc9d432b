"""Scripts as bytes: whole answers, streams of events, and errors."""

import json
from collections.abc import Iterator
from typing import Any

from tests.mock_openai.script import Call, Fault, Script

_ERRORS = {
    Fault.RATE_LIMITED: (429, "rate_limit_exceeded", "requests"),
    Fault.QUOTA: (429, "insufficient_quota", "insufficient_quota"),
    Fault.SERVER_ERROR: (500, None, "server_error"),
    Fault.OVERSIZED_ERROR: (500, None, "server_error"),
    Fault.UNAVAILABLE: (503, None, "server_error"),
    Fault.MOVED: (307, None, None),
    Fault.BAD_REQUEST: (400, "invalid_value", "invalid_request_error"),
    Fault.UNAUTHORIZED: (401, "invalid_api_key", "invalid_request_error"),
    Fault.FORBIDDEN: (403, "model_not_allowed", "invalid_request_error"),
    Fault.NOT_FOUND: (404, "model_not_found", "invalid_request_error"),
    Fault.CONTEXT_TOO_LONG: (400, "context_length_exceeded", "invalid_request_error"),
}
_REASONS = {200: "OK", 307: "Temporary Redirect", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
            404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error",
            503: "Service Unavailable"}  # fmt: skip


def response(status: int, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """A whole HTTP response."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
    return (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Other')}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\n{lines}\r\n"
    ).encode() + body


def error(script: Script, key: str) -> bytes | None:
    """The response of a fault that is an HTTP error; None for all others. `key`: what the caller sent."""
    if script.fault not in _ERRORS:
        return None
    status, code, kind = _ERRORS[script.fault]
    message = f"Something is wrong with {key or 'this'}, said to: {script.text}"
    if script.fault is Fault.OVERSIZED_ERROR:
        message += "x" * script.size_bytes
    headers = dict(script.headers)
    if script.retry_after:
        headers["retry-after"] = script.retry_after
    body = json.dumps({"error": {"message": message, "type": kind, "code": code, "param": None}})
    return response(status, body.encode(), headers)


def message(script: Script, request: dict[str, Any]) -> tuple[str | None, tuple[Call, ...], str | None, str]:
    """Text, calls, refusal and finish reason."""
    tools = request.get("tools") or ()
    first = tools[0]["function"]["name"] if tools else "none"
    match script.fault:
        case Fault.CONTENT_FILTER:
            return script.text[: len(script.text) // 2], (), None, "content_filter"
        case Fault.REFUSAL:
            return None, (), "I cannot help with that.", "stop"
        case Fault.MALFORMED_ARGUMENTS:
            return None, (Call(first, '{"origin": "A'),), None, "tool_calls"
        case Fault.TOOL_LOOP:
            calls = script.calls or (Call(first, "{}", f"call_{len(request.get('messages', ()))}"),)
            return None, calls, None, "tool_calls"
        case Fault.SCHEMA_VIOLATION:
            return '{"unexpected": true}', (), None, "stop"
        case Fault.OVERSIZED:
            return "x" * script.size_bytes, (), None, "stop"
        case Fault.TRUNCATED:
            return script.text[: len(script.text) // 2], script.calls, None, "length"
    text = None if script.calls and not script.text else script.text
    reason = script.finish_reason or ("tool_calls" if script.calls else "stop")
    return text, script.calls, None, reason


def usage(script: Script, request_bytes: int) -> dict[str, int]:
    """What the answer took; the same figures whether it is streamed or not."""
    sent, made = script.usage or (
        request_bytes // 4,
        1 + (len(script.text) + sum(len(call.arguments) for call in script.calls)) // 4,
    )
    return {"prompt_tokens": sent, "completion_tokens": made, "total_tokens": sent + made}


def whole(script: Script, request: dict[str, Any], request_bytes: int) -> bytes:
    """The body of an answer that is not streamed."""
    if script.fault is Fault.ERROR_CHUNK:
        return json.dumps({"error": {"message": "failed on the way", "code": script.error_code}}).encode()
    text, calls, refusal, reason = message(script, request)
    said: dict[str, Any] = {"role": "assistant", "content": text, "refusal": refusal}
    if calls:
        said["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": request.get("model", ""),
        "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": reason}],
        "usage": usage(script, request_bytes),
    }
    if script.fault is Fault.NO_CHOICES:
        body["choices"] = []
    if script.fault is Fault.NO_USAGE:
        del body["usage"]
    data = json.dumps(body).encode()
    return data[: len(data) // 2] if script.fault is Fault.MALFORMED_BODY else data


def events(script: Script, request: dict[str, Any], request_bytes: int) -> Iterator[bytes]:
    """The events of an answer that is streamed."""
    text, calls, refusal, reason = message(script, request)
    base = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000}
    base["model"] = request.get("model", "")

    def event(delta: dict[str, Any], finish: str | None = None) -> bytes:
        choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        if script.fault is Fault.NO_CHOICES:
            choices = []
        return b"data: " + json.dumps({**base, "choices": choices}).encode() + b"\n\n"

    yield event({"role": "assistant", "content": "" if text is not None else None})
    size = 65_536 if script.fault is Fault.OVERSIZED else script.piece_chars
    said = text or ""
    pieces = [said[at : at + size] for at in range(0, len(said), size)]
    for place, piece in enumerate(pieces):
        if place == len(pieces) // 2:
            if script.fault is Fault.ERROR_CHUNK:
                failure = {"message": "failed on the way", "code": script.error_code}
                yield b"data: " + json.dumps({"error": failure}).encode() + b"\n\n"
                return
            if script.fault is Fault.MALFORMED_BODY:
                yield b'data: {"choices": [{"index": 0, "delta"\n\n'
        yield event({"content": piece})
    if refusal is not None:
        yield event({"refusal": refusal})
    for index, call in enumerate(calls):
        head = {"index": index, "id": call.id, "type": "function"}
        yield event({"tool_calls": [{**head, "function": {"name": call.name, "arguments": ""}}]})
        half = len(call.arguments) // 2
        for piece in (call.arguments[:half], call.arguments[half:]):
            yield event({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield event({}, reason)
    wants = (request.get("stream_options") or {}).get("include_usage")
    if wants and script.fault is not Fault.NO_USAGE:
        last = {**base, "choices": [], "usage": usage(script, request_bytes)}
        yield b"data: " + json.dumps(last).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"
