"""The errors of the mesh: one small hierarchy, its form on the wire (google.rpc.Status) and over HTTP.

Raise the subclass of the gRPC code where the fact is known; the server's chain turns it into a status with
ErrorInfo (domain `waymesh`), BadRequest and RetryInfo, and a client's chain turns that status back into the
same subclass. Everything else that escapes a handler is INTERNAL with a neutral message (`translate`).
"""
# ruff: noqa: N818 - the names are those of the gRPC codes

import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from waymesh.mesh.v1.error_reason_pb2 import (
    ERROR_REASON_CALLER_GONE,
    ERROR_REASON_DEADLINE_PASSED,
    ERROR_REASON_DRAINING,
    ERROR_REASON_INTERNAL_FAULT,
    ERROR_REASON_MESSAGE_TOO_LARGE,
    ERROR_REASON_METHOD_UNIMPLEMENTED,
    ERROR_REASON_OVERLOADED,
    ERROR_REASON_STORE_UNAVAILABLE,
    ERROR_REASON_TARGET_UNAVAILABLE,
    ERROR_REASON_UNSPECIFIED,
    ErrorReason,
)

from services.mesh.redact import redact_forms

DOMAIN: Final = "waymesh"
STATUS_DETAILS_KEY: Final = "grpc-status-details-bin"
# What a caller is told to wait for when whoever raised did not say, in seconds.
DEFAULT_RETRY_AFTER_S: Final = 1.0
# Broken rules told at once; more say nothing new, and they travel in the trailing metadata.
MAX_VIOLATIONS: Final = 50

# grpc's default limit for all metadata of an answer is 8 KiB, base64 takes a third on top, and the message
# travels twice.
_TRAILER_BYTES: Final = 4096
_MESSAGE_CHARS: Final = 500
# How gRPC's core says how large a message was, and may be.
_TOO_LARGE: Final = re.compile(r"larger than max \(\d+ vs\. (\d+)\)")
_PREFIX: Final = "ERROR_REASON_"
_NONE: Final[Mapping[str, str]] = MappingProxyType({})
_NEUTRAL_MESSAGE: Final = "internal error; the logs hold the details under this request's id"


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One broken rule: path of the field from the root of the message, and what would be right."""

    field: str
    description: str


def _without_secrets(violation: FieldViolation) -> FieldViolation:
    field, description = redact_forms(violation.field), redact_forms(violation.description)
    if field is violation.field and description is violation.description:
        return violation
    return FieldViolation(field, description)


class MeshError(Exception):
    """An error that may reach a caller as it stands: nothing in it may be secret or internal.

    What a caller has sent and an error quotes is left out where it has the form of a secret.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        reason: ErrorReason.ValueType = ERROR_REASON_UNSPECIFIED,
        metadata: Mapping[str, str] = _NONE,
        violations: Sequence[FieldViolation] = (),
        retry_after_s: float | None = None,
    ) -> None:
        message = redact_forms(message)
        super().__init__(message)
        message = message if len(message) <= _MESSAGE_CHARS else message[: _MESSAGE_CHARS - 1] + "…"
        self.message = message
        self.reason = reason
        self.metadata = {name: redact_forms(value) for name, value in metadata.items()} if metadata else _NONE
        self.violations = tuple(map(_without_secrets, violations))
        self.retry_after_s = retry_after_s
        # Set on errors that a client's chain made from a status which the peer's application had sent.
        self.from_peer = False
        # Set on errors of a call that the client's chain has not sent at all.
        self.unsent = False

    @property
    def reason_name(self) -> str:
        """The reason without its prefix, such as `ORDER_UNKNOWN`; empty if there is none."""
        if self.reason == ERROR_REASON_UNSPECIFIED:
            return ""
        try:
            return ErrorReason.Name(self.reason).removeprefix(_PREFIX)
        except ValueError:  # a newer peer's reason
            return str(self.reason)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, reason={self.reason_name!r})"


class Cancelled(MeshError):
    """The caller has gone."""

    code = grpc.StatusCode.CANCELLED


class Unknown(MeshError):
    """A peer failed without saying how."""

    code = grpc.StatusCode.UNKNOWN


class InvalidArgument(MeshError):
    """The request breaks a rule, whatever the state of the system."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class DeadlineExceeded(MeshError):
    """The budget of the call is used up."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class NotFound(MeshError):
    """What the request names is not known."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(MeshError):
    """The same id came before with other content."""

    code = grpc.StatusCode.ALREADY_EXISTS


class PermissionDenied(MeshError):
    """The caller is known but may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class ResourceExhausted(MeshError):
    """A limit is used up: rate, size, or calls under way."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class FailedPrecondition(MeshError):
    """The state of the system does not allow this."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(MeshError):
    """A concurrent change got in between."""

    code = grpc.StatusCode.ABORTED


class OutOfRange(MeshError):
    """A position past the end, such as a cursor that is too old."""

    code = grpc.StatusCode.OUT_OF_RANGE


class Unimplemented(MeshError):
    """The method is not served here."""

    code = grpc.StatusCode.UNIMPLEMENTED


class Internal(MeshError):
    """A fault of ours."""

    code = grpc.StatusCode.INTERNAL


class Unavailable(MeshError):
    """Not now; the same call may succeed later."""

    code = grpc.StatusCode.UNAVAILABLE


class DataLoss(MeshError):
    """Data is lost or corrupt."""

    code = grpc.StatusCode.DATA_LOSS


class Unauthenticated(MeshError):
    """Who calls is not known."""

    code = grpc.StatusCode.UNAUTHENTICATED


_CLASS_OF: Final[Mapping[grpc.StatusCode, type[MeshError]]] = {
    cls.code: cls for cls in MeshError.__subclasses__()
}
_CODE_OF_NUMBER: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}

# The table of HTTP answers. OK is there so that callers need no special case.
_HTTP: Final[Mapping[grpc.StatusCode, int]] = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


def http_status(code: grpc.StatusCode) -> int:
    """HTTP status for a gRPC code."""
    return _HTTP[code]


def error_class(code: grpc.StatusCode) -> type[MeshError]:
    """The subclass for a code; Unknown for OK, which is not an error."""
    return _CLASS_OF.get(code, Unknown)


def translate(error: BaseException) -> MeshError:
    """Any exception as one that may reach a caller.

    Nothing of the text of a foreign exception is kept: it may hold a DSN, a path or a row. Who calls this
    logs the original.
    """
    if isinstance(error, MeshError):
        return error
    if isinstance(error, asyncio.CancelledError):
        return Cancelled("the caller has gone", reason=ERROR_REASON_CALLER_GONE)
    if isinstance(error, grpc.aio.AioRpcError):
        return from_rpc_error(error)
    if _is_store_failure(error):
        return Unavailable(
            "the store did not answer",
            reason=ERROR_REASON_STORE_UNAVAILABLE,
            retry_after_s=DEFAULT_RETRY_AFTER_S,
        )
    if isinstance(error, TimeoutError):
        # Whatever it was that did not answer, it is worth another try; what it was stays in our logs.
        return Unavailable(
            "a dependency did not answer in time",
            reason=ERROR_REASON_TARGET_UNAVAILABLE,
            retry_after_s=DEFAULT_RETRY_AFTER_S,
        )
    return internal()


def internal() -> Internal:
    """A fault of ours, as callers see it."""
    return Internal(_NEUTRAL_MESSAGE, reason=ERROR_REASON_INTERNAL_FAULT)


def _is_store_failure(error: BaseException) -> bool:
    """Lost or refused connections to PostgreSQL, and transactions that met; not statements it refused."""
    if isinstance(error, ConnectionError):  # asyncpg lets a refused connection through as it is
        return True
    asyncpg = sys.modules.get("asyncpg")  # a process without a store need not import it
    if asyncpg is None:
        return False
    lost: tuple[type[BaseException], ...] = (
        asyncpg.PostgresConnectionError,
        asyncpg.CannotConnectNowError,
        asyncpg.AdminShutdownError,
        asyncpg.CrashShutdownError,
        asyncpg.TooManyConnectionsError,
        # Another transaction got in the way: the same again may succeed.
        asyncpg.DeadlockDetectedError,
        asyncpg.SerializationError,
        asyncpg.LockNotAvailableError,
        # asyncpg's own state after a connection was lost in the middle of a statement.
        asyncpg.InternalClientError,
        asyncpg.InterfaceError,
    )
    if not isinstance(error, lost):
        return False
    if isinstance(error, asyncpg.InterfaceError):
        # InterfaceError also says that a caller misused the API; only these are about the connection, which
        # a pool takes back when it is lost, from whoever still holds it.
        if any(word in str(error) for word in ("closed", "closing", "connection was", "released back")):
            return True
        # A pool that tidies up a connection whose end asyncpg has not taken in says that it is still in use,
        # and that hides what was raised before.
        return error.__context__ is not None and _is_store_failure(error.__context__)
    return True


def to_status(error: BaseException) -> status_pb2.Status:
    """The error as google.rpc.Status; foreign exceptions become INTERNAL with a neutral message."""
    mesh_error = translate(error)
    status = status_pb2.Status(code=mesh_error.code.value[0], message=mesh_error.message)
    if mesh_error.reason != ERROR_REASON_UNSPECIFIED:
        status.details.add().Pack(
            error_details_pb2.ErrorInfo(
                reason=mesh_error.reason_name, domain=DOMAIN, metadata=mesh_error.metadata
            )
        )
    if mesh_error.violations:
        status.details.add().Pack(
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field=v.field, description=v.description)
                    for v in mesh_error.violations
                ]
            )
        )
    if mesh_error.retry_after_s is not None:
        info = error_details_pb2.RetryInfo()
        info.retry_delay.FromNanoseconds(round(mesh_error.retry_after_s * 1e9))
        status.details.add().Pack(info)
    return status


def to_trailer(error: MeshError) -> bytes:
    """The status as it travels in the trailing metadata, cut to what a peer's metadata limit takes.

    Left out are, in this order, violations from the end, then everything but code and message.
    """
    status = to_status(error)
    violations = error.violations
    while status.ByteSize() > _TRAILER_BYTES and violations:
        violations = violations[: len(violations) // 2]
        status = to_status(
            type(error)(
                error.message,
                reason=error.reason,
                metadata=error.metadata,
                violations=violations,
                retry_after_s=error.retry_after_s,
            )
        )
    if status.ByteSize() > _TRAILER_BYTES:
        status = status_pb2.Status(code=error.code.value[0], message=error.message)
    return bytes(status.SerializeToString())


def from_status(status: status_pb2.Status) -> MeshError:
    """The status as a typed error. Details of other domains are left out."""
    reason = ERROR_REASON_UNSPECIFIED
    metadata: Mapping[str, str] = _NONE
    violations: tuple[FieldViolation, ...] = ()
    retry_after_s: float | None = None
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo()
            detail.Unpack(info)
            if info.domain == DOMAIN:
                reason = _reason(info.reason)
                metadata = dict(info.metadata)
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            bad = error_details_pb2.BadRequest()
            detail.Unpack(bad)
            violations = tuple(FieldViolation(v.field, v.description) for v in bad.field_violations)
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            retry = error_details_pb2.RetryInfo()
            detail.Unpack(retry)
            retry_after_s = retry.retry_delay.ToNanoseconds() / 1e9
    code = _CODE_OF_NUMBER.get(status.code, grpc.StatusCode.UNKNOWN)
    error = error_class(code)(
        status.message, reason=reason, metadata=metadata, violations=violations, retry_after_s=retry_after_s
    )
    error.from_peer = True
    return error


def from_rpc_error(
    error: grpc.aio.AioRpcError, target: str = "", method: str = "", budget_s: float | None = None
) -> MeshError:
    """What a grpc.aio call of `target`'s `method` with this budget raised as a typed error.

    A peer of the mesh sends its status in the trailing metadata. Without one, the failure comes from the
    transport or from grpc itself; its text names addresses, so it is replaced.
    """
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            status = status_pb2.Status()
            try:
                status.ParseFromString(value)
            except DecodeError:  # not from a peer of ours
                break
            return from_status(status)
    return _from_transport(error.code(), error.details() or "", target, method, budget_s)


def budget_ms(seconds: float) -> str:
    """A budget as it stands in the metadata of DEADLINE_PASSED."""
    return str(max(0, round(seconds * 1000)))


def _from_transport(
    code: grpc.StatusCode, details: str, target: str, method: str, budget_s: float | None
) -> MeshError:
    metadata = {"target": target} if target else _NONE
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return Unavailable(
                f"{target or 'the target'} cannot be reached",
                reason=ERROR_REASON_TARGET_UNAVAILABLE,
                metadata=metadata,
                retry_after_s=DEFAULT_RETRY_AFTER_S,
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceeded(
                f"{target or 'the target'} did not answer in time",
                reason=ERROR_REASON_DEADLINE_PASSED,
                metadata=_NONE if budget_s is None else {"budget_ms": budget_ms(budget_s)},
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" in details:
            sizes = _TOO_LARGE.search(details)
            return ResourceExhausted(
                "a message is too large",
                reason=ERROR_REASON_MESSAGE_TOO_LARGE,
                metadata=_NONE if sizes is None else {"limit_bytes": sizes[1]},
            )
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ResourceExhausted(
                f"{target or 'the target'} has too many calls under way",
                reason=ERROR_REASON_OVERLOADED,
                retry_after_s=DEFAULT_RETRY_AFTER_S,
            )
        case grpc.StatusCode.UNIMPLEMENTED:
            return Unimplemented(
                "the method is not served",
                reason=ERROR_REASON_METHOD_UNIMPLEMENTED,
                metadata={"method": method} if method else _NONE,
            )
        case grpc.StatusCode.CANCELLED:
            # Our own cancellation is an asyncio.CancelledError. This one comes from a server that is
            # stopping: it cancels, unread, what arrives before its GOAWAY has reached us.
            return Unavailable(
                f"{target or 'the target'} is on its way out",
                reason=ERROR_REASON_DRAINING,
                retry_after_s=DEFAULT_RETRY_AFTER_S,
            )
        case _:
            return error_class(code)(f"{target or 'the target'} failed", metadata=metadata)


def _reason(name: str) -> ErrorReason.ValueType:
    try:
        return ErrorReason.Value(_PREFIX + name)
    except ValueError:  # a newer peer's reason
        return ERROR_REASON_UNSPECIFIED


def status_code_of_number(number: int) -> grpc.StatusCode:
    """gRPC's code for the number in google.rpc.Status; UNKNOWN for one that does not exist."""
    return _CODE_OF_NUMBER.get(number, grpc.StatusCode.UNKNOWN)
