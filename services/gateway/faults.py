"""What goes wrong before or around an RPC, and how every error looks over HTTP.

Every cause is a MeshError; its status is that of its gRPC code, but for the causes that only HTTP knows
(405, 413, 415, 431), which bring their own.
"""

from collections.abc import Collection, Sequence
from typing import Final

from waymesh.mesh.v1.error_reason_pb2 import (
    ERROR_REASON_API_KEY_INVALID,
    ERROR_REASON_API_KEY_MISSING,
    ERROR_REASON_BODY_TOO_LARGE,
    ERROR_REASON_DEADLINE_PASSED,
    ERROR_REASON_DRAINING,
    ERROR_REASON_HEADERS_TOO_LARGE,
    ERROR_REASON_HOST_NOT_LOCAL,
    ERROR_REASON_INVALID_FIELD,
    ERROR_REASON_MALFORMED_BODY,
    ERROR_REASON_METHOD_NOT_ALLOWED,
    ERROR_REASON_NOT_ACCEPTABLE,
    ERROR_REASON_OVERLOADED,
    ERROR_REASON_RATE_LIMITED,
    ERROR_REASON_SCOPE_MISSING,
    ERROR_REASON_STORE_UNAVAILABLE,
    ERROR_REASON_TOO_MANY_UNDER_WAY,
    ERROR_REASON_UNKNOWN_PATH,
    ERROR_REASON_UNKNOWN_TASK,
    ERROR_REASON_UNSUPPORTED_MEDIA_TYPE,
)

from services.gateway.limits import Rate, retry_after
from services.mesh.errors import (
    DEFAULT_RETRY_AFTER_S,
    DeadlineExceeded,
    FieldViolation,
    InvalidArgument,
    MeshError,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    http_status,
)

Headers = list[tuple[bytes, bytes]]

# Nobody knows when there is room again for what a tenant may have: not by itself in any case.
_NOT_SOON_S: Final = 60.0


class HttpFault(InvalidArgument):
    """A client's fault with an HTTP status that no gRPC code has. `headers` go with the answer."""

    status = 400
    headers: tuple[tuple[bytes, bytes], ...] = ()


class BodyLate(DeadlineExceeded):
    """What is left of the body may still come, and nobody wants it: the connection ends with the answer."""

    headers = ((b"connection", b"close"),)


def method_not_allowed(allowed: Sequence[str]) -> HttpFault:
    """405."""
    names = ", ".join(allowed)
    fault = HttpFault(
        f"this path takes {names}", reason=ERROR_REASON_METHOD_NOT_ALLOWED, metadata={"allowed": names}
    )
    fault.status = 405
    fault.headers = ((b"allow", names.encode()),)
    return fault


def header_repeated(name: str) -> HttpFault:
    """400 (for Host: RFC 9112, 3.2)."""
    return HttpFault(f"the header {name} must come once", reason=ERROR_REASON_MALFORMED_BODY)


def host_missing() -> HttpFault:
    """400 (RFC 9112, 3.2)."""
    return HttpFault("the header host is missing", reason=ERROR_REASON_MALFORMED_BODY)


def host_not_local() -> PermissionDenied:
    """403."""
    return PermissionDenied(
        "this listener is for programs on its own machine: the host must be localhost or a loopback address",
        reason=ERROR_REASON_HOST_NOT_LOCAL,
    )


def body_too_large(limit_bytes: int) -> HttpFault:
    """413."""
    fault = HttpFault(
        f"the body is larger than {limit_bytes} bytes",
        reason=ERROR_REASON_BODY_TOO_LARGE,
        metadata={"limit_bytes": str(limit_bytes)},
    )
    fault.status = 413
    return fault


def not_acceptable(why: str) -> HttpFault:
    """406: events were asked for, and nothing else will do."""
    fault = HttpFault(
        f"{why}: accept application/json",
        reason=ERROR_REASON_NOT_ACCEPTABLE,
        metadata={"offered": "application/json"},
    )
    fault.status = 406
    return fault


def last_event_id_invalid(limit: int) -> HttpFault:
    """400."""
    text = f"must be 1 to {limit} visible characters"
    return HttpFault(
        f"Last-Event-ID {text}",
        reason=ERROR_REASON_INVALID_FIELD,
        violations=[FieldViolation("Last-Event-ID", text)],
    )


def unsupported_media_type(found: str) -> HttpFault:
    """415."""
    fault = HttpFault(
        "the content type must be application/json",
        reason=ERROR_REASON_UNSUPPORTED_MEDIA_TYPE,
        metadata={"content_type": found[:100]},
    )
    fault.status = 415
    return fault


def unsupported_coding(found: str) -> HttpFault:
    """415 for a body that is compressed."""
    fault = HttpFault(
        "the body must be sent as it is: leave out Content-Encoding",
        reason=ERROR_REASON_UNSUPPORTED_MEDIA_TYPE,
        metadata={"content_encoding": found[:100]},
    )
    fault.status = 415
    return fault


def headers_too_large(limit_bytes: int, what: str = "request line and headers") -> HttpFault:
    """431."""
    fault = HttpFault(
        f"the {what} are larger than {limit_bytes} bytes",
        reason=ERROR_REASON_HEADERS_TOO_LARGE,
        metadata={"limit_bytes": str(limit_bytes)},
    )
    fault.status = 431
    return fault


def trailers_too_large(limit_bytes: int) -> HttpFault:
    """431, of what follows a body in chunks."""
    return headers_too_large(limit_bytes, "trailers")


def unknown_path(path: str, served: Collection[str]) -> NotFound:
    """404, with where to look instead."""
    where = "see /docs" if "/docs" in served else f"there are {' and '.join(sorted(served))}"
    return NotFound(
        f"this path is not served: {where}",
        reason=ERROR_REASON_UNKNOWN_PATH,
        metadata={"path": path[:200]},
    )


def unknown_task(task: str) -> NotFound:
    """404."""
    shown = task[:64].encode("utf-8", "replace").decode()
    return NotFound(
        f"the task {shown!r} is not known", reason=ERROR_REASON_UNKNOWN_TASK, metadata={"task": shown}
    )


def key_missing() -> Unauthenticated:
    """401."""
    return Unauthenticated("the header X-API-Key is missing", reason=ERROR_REASON_API_KEY_MISSING)


def key_invalid() -> Unauthenticated:
    """401."""
    return Unauthenticated("the API key is not valid", reason=ERROR_REASON_API_KEY_INVALID)


def rate_limited(rate: Rate, wait_s: float) -> ResourceExhausted:
    """429."""
    return ResourceExhausted(
        f"more than {rate.per_s:g} requests a second",
        reason=ERROR_REASON_RATE_LIMITED,
        metadata={"limit_per_s": f"{rate.per_s:g}", "burst": str(rate.burst)},
        retry_after_s=wait_s,
    )


def too_many_under_way(limit: int) -> ResourceExhausted:
    """429."""
    return ResourceExhausted(
        f"this key has {limit} requests under way, which is all it may have",
        reason=ERROR_REASON_TOO_MANY_UNDER_WAY,
        metadata={"limit": str(limit)},
        retry_after_s=DEFAULT_RETRY_AFTER_S,
    )


def scope_missing(task: str, scope: str) -> PermissionDenied:
    """403."""
    return PermissionDenied(
        f"this key may not call {task}: it needs the scope {scope}",
        reason=ERROR_REASON_SCOPE_MISSING,
        metadata={"task": task, "scope": scope},
    )


def unrecorded() -> Unavailable:
    """503, of what is done only if the audit log can tell of it."""
    return Unavailable(
        "the audit log is away, and this is not done without it",
        reason=ERROR_REASON_STORE_UNAVAILABLE,
        retry_after_s=DEFAULT_RETRY_AFTER_S,
    )


def overloaded() -> Unavailable:
    """503: too many requests under way in this process, whoever sends them."""
    return Unavailable(
        "too many requests are under way", reason=ERROR_REASON_OVERLOADED, retry_after_s=DEFAULT_RETRY_AFTER_S
    )


def crowded() -> Unavailable:
    """503: as many connections as this process may hold, none of which could make room."""
    return Unavailable(
        "too many connections are open",
        reason=ERROR_REASON_OVERLOADED,
        retry_after_s=DEFAULT_RETRY_AFTER_S,
    )


def draining() -> Unavailable:
    """503, of the health page, and of requests whose body does not come while the process waits to end."""
    return Unavailable(
        "this process is on its way out", reason=ERROR_REASON_DRAINING, retry_after_s=DEFAULT_RETRY_AFTER_S
    )


def starting() -> Unavailable:
    """503, of the health page, and of requests with a key while no key is known yet."""
    return Unavailable(
        "the API keys are not known yet",
        reason=ERROR_REASON_STORE_UNAVAILABLE,
        retry_after_s=DEFAULT_RETRY_AFTER_S,
    )


def too_late(budget_ms: float) -> DeadlineExceeded:
    """504."""
    return DeadlineExceeded(
        f"there was no answer within {budget_ms:g} ms",
        reason=ERROR_REASON_DEADLINE_PASSED,
        metadata={"budget_ms": f"{budget_ms:g}"},
    )


def body_late(budget_ms: float) -> BodyLate:
    """504."""
    return BodyLate(
        f"the body was not here within {budget_ms:g} ms",
        reason=ERROR_REASON_DEADLINE_PASSED,
        metadata={"budget_ms": f"{budget_ms:g}"},
    )


def status_of(error: MeshError) -> int:
    """HTTP status of an error."""
    return error.status if isinstance(error, HttpFault) else http_status(error.code)


def headers_of(error: MeshError, status: int) -> Headers:
    """Headers that go with an error besides those of every answer."""
    headers: Headers = []
    if isinstance(error, HttpFault | BodyLate):
        headers += error.headers
    if status in (429, 503):
        wait_s = error.retry_after_s
        if wait_s is None:
            wait_s = DEFAULT_RETRY_AFTER_S if status == 503 else _NOT_SOON_S
        headers.append((b"retry-after", retry_after(wait_s).encode()))
    elif status == 401:
        headers.append((b"www-authenticate", b'ApiKey realm="waymesh"'))
    return headers


def fields_of(error: MeshError, *, request_id: str, duration_ms: float, service: str) -> dict[str, object]:
    """The one error body, before it is JSON."""
    return {
        "error": error.message,
        "request_id": request_id,
        "duration_ms": duration_ms,
        "service": service,
        "code": error.code.name,
        "reason": error.reason_name,
        "details": [{"field": each.field, "description": each.description} for each in error.violations],
    }
