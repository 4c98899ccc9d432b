"""Errors, their form on the wire and over HTTP."""

import asyncio

import asyncpg
import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st
from waymesh.mesh.v1 import error_reason_pb2
from waymesh.mesh.v1.error_reason_pb2 import ErrorReason

from services.mesh import errors
from services.mesh.errors import FieldViolation, MeshError

CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
REASONS = [value for value in ErrorReason.values() if value != error_reason_pb2.ERROR_REASON_UNSPECIFIED]
TEXT = st.text(st.characters(codec="utf-8"), max_size=60)


def test_every_code_has_a_subclass_of_its_own():
    assert {errors.error_class(code).code for code in CODES} == set(CODES)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("INVALID_ARGUMENT", 400),
        ("OUT_OF_RANGE", 400),
        ("FAILED_PRECONDITION", 400),
        ("UNAUTHENTICATED", 401),
        ("PERMISSION_DENIED", 403),
        ("NOT_FOUND", 404),
        ("ALREADY_EXISTS", 409),
        ("ABORTED", 409),
        ("RESOURCE_EXHAUSTED", 429),
        ("CANCELLED", 499),
        ("UNKNOWN", 500),
        ("INTERNAL", 500),
        ("DATA_LOSS", 500),
        ("UNIMPLEMENTED", 501),
        ("UNAVAILABLE", 503),
        ("DEADLINE_EXCEEDED", 504),
    ],
)
def test_http_status_of_each_code(code: str, status: int):
    assert errors.http_status(grpc.StatusCode[code]) == status


def test_no_code_is_without_an_http_status():
    assert all(errors.http_status(code) for code in grpc.StatusCode)


@given(
    code=st.sampled_from(CODES),
    message=TEXT,
    reason=st.sampled_from(REASONS),
    metadata=st.dictionaries(TEXT, TEXT, max_size=4),
    violations=st.lists(st.builds(FieldViolation, TEXT, TEXT), max_size=4),
    retry_after_s=st.none() | st.floats(0, 3600).map(lambda seconds: round(seconds, 6)),
)
def test_an_error_survives_the_wire(
    code: grpc.StatusCode,
    message: str,
    reason: ErrorReason.ValueType,
    metadata: dict[str, str],
    violations: list[FieldViolation],
    retry_after_s: float | None,
):
    sent = errors.error_class(code)(
        message, reason=reason, metadata=metadata, violations=violations, retry_after_s=retry_after_s
    )
    received = errors.from_status(status_pb2.Status.FromString(errors.to_trailer(sent)))
    assert type(received) is type(sent)
    assert received.message == message
    assert received.reason == reason
    assert dict(received.metadata) == metadata
    assert received.violations == tuple(violations)
    assert received.retry_after_s == pytest.approx(retry_after_s)
    assert received.from_peer


def test_the_reason_travels_by_name_under_our_domain():
    status = errors.to_status(
        errors.NotFound(
            "x", reason=error_reason_pb2.ERROR_REASON_ORDER_UNKNOWN, metadata={"order_id": "order_456"}
        )
    )
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert (info.domain, info.reason, dict(info.metadata)) == (
        "waymesh",
        "ORDER_UNKNOWN",
        {"order_id": "order_456"},
    )


def test_details_of_other_domains_and_reasons_of_newer_peers_do_no_harm():
    status = status_pb2.Status(code=5, message="x")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="ORDER_UNKNOWN", domain="googleapis.com"))
    assert errors.from_status(status).reason == error_reason_pb2.ERROR_REASON_UNSPECIFIED
    status = status_pb2.Status(code=99, message="x")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason="OF_TOMORROW", domain="waymesh"))
    received = errors.from_status(status)
    assert isinstance(received, errors.Unknown)
    assert received.reason == error_reason_pb2.ERROR_REASON_UNSPECIFIED


@given(st.integers(0, 2000), st.integers(0, 20_000))
def test_a_trailer_never_outgrows_what_a_peer_takes(violations: int, size: int):
    error = errors.InvalidArgument(
        "m" * size,
        violations=[FieldViolation(f"queries[{i}].order_id", "is wrong") for i in range(violations)],
        metadata={"order_id": "o" * size},
    )
    trailer = errors.to_trailer(error)
    assert len(trailer) <= 4096
    assert errors.from_status(status_pb2.Status.FromString(trailer)).code is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "error",
    [RuntimeError("dsn=postgresql://u:p@h"), KeyError("secret"), ValueError("row 17"), OSError("/etc")],
)
def test_foreign_exceptions_become_internal_without_their_text(error: Exception):
    translated = errors.translate(error)
    assert isinstance(translated, errors.Internal)
    assert str(error.args[0]) not in translated.message
    assert translated.reason == error_reason_pb2.ERROR_REASON_INTERNAL_FAULT


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(111, "refused"),
        ConnectionResetError(),
        asyncpg.ConnectionDoesNotExistError("gone"),
        asyncpg.CannotConnectNowError("starting up"),
        asyncpg.AdminShutdownError("terminating connection"),
        asyncpg.TooManyConnectionsError("too many"),
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InterfaceError("pool is closing"),
        asyncpg.InterfaceError("connection has been released back to the pool"),
        asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"),
        asyncpg.DeadlockDetectedError("deadlock detected"),
    ],
)
def test_a_lost_store_is_unavailable_and_worth_another_try(error: Exception):
    translated = errors.translate(error)
    assert isinstance(translated, errors.Unavailable)
    assert translated.reason == error_reason_pb2.ERROR_REASON_STORE_UNAVAILABLE
    assert translated.retry_after_s is not None


def test_a_statement_that_the_store_refused_is_a_fault_of_ours():
    for error in (
        asyncpg.UniqueViolationError("dup"),
        asyncpg.InterfaceError("cannot use Connection.x twice"),
    ):
        assert isinstance(errors.translate(error), errors.Internal)


def test_a_lost_store_is_not_hidden_by_what_its_pool_says_while_it_tidies_up():
    lost = asyncpg.InternalClientError("cannot switch to state 21; another operation (2) is in progress")
    tidying = asyncpg.InterfaceError("cannot perform operation: another operation is in progress")
    assert isinstance(errors.translate(tidying), errors.Internal)
    tidying.__context__ = lost
    assert isinstance(errors.translate(tidying), errors.Unavailable)
    tidying.__context__ = asyncpg.UniqueViolationError("dup")
    assert isinstance(errors.translate(tidying), errors.Internal)


def test_typed_errors_stay_what_they_are():
    error = errors.NotFound("x")
    assert errors.translate(error) is error
    assert isinstance(errors.translate(asyncio.CancelledError()), errors.Cancelled)
    assert isinstance(errors.translate(TimeoutError()), errors.Unavailable)


def rpc_error(code: grpc.StatusCode, details: str, *trailer: tuple[str, bytes]) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailer), details)


@pytest.mark.parametrize(
    ("code", "details", "expected", "reason"),
    [
        (
            "UNAVAILABLE",
            "failed to connect to 10.0.0.7:50051",
            errors.Unavailable,
            error_reason_pb2.ERROR_REASON_TARGET_UNAVAILABLE,
        ),
        (
            "DEADLINE_EXCEEDED",
            "Deadline Exceeded",
            errors.DeadlineExceeded,
            error_reason_pb2.ERROR_REASON_DEADLINE_PASSED,
        ),
        (
            "RESOURCE_EXHAUSTED",
            "CLIENT: Sent message larger than max (9 vs. 8)",
            errors.ResourceExhausted,
            error_reason_pb2.ERROR_REASON_MESSAGE_TOO_LARGE,
        ),
        (
            "RESOURCE_EXHAUSTED",
            "Concurrent RPC limit exceeded!",
            errors.ResourceExhausted,
            error_reason_pb2.ERROR_REASON_OVERLOADED,
        ),
        (
            "UNIMPLEMENTED",
            "Method not found!",
            errors.Unimplemented,
            error_reason_pb2.ERROR_REASON_METHOD_UNIMPLEMENTED,
        ),
        ("CANCELLED", "CANCELLED", errors.Unavailable, error_reason_pb2.ERROR_REASON_DRAINING),
        ("UNKNOWN", "Unexpected <class 'KeyError'>", errors.Unknown, 0),
    ],
)
def test_what_the_transport_says_is_typed_and_its_words_are_dropped(
    code: str, details: str, expected: type[MeshError], reason: int
):
    typed = errors.from_rpc_error(rpc_error(grpc.StatusCode[code], details), "eta")
    assert type(typed) is expected
    assert typed.reason == reason
    assert details not in typed.message
    assert not typed.from_peer


def test_a_trailer_that_is_not_a_status_is_passed_over():
    typed = errors.from_rpc_error(
        rpc_error(grpc.StatusCode.UNAVAILABLE, "x", (errors.STATUS_DETAILS_KEY, b"\xff\xff\xff")), "eta"
    )
    assert isinstance(typed, errors.Unavailable)
