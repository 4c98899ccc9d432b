"""The mesh's chain cannot tell its own unary client from grpc.aio: same errors, same spans, same metrics."""

from collections.abc import Mapping
from typing import Any

import grpc
import pytest
from mesh_rig import PREDICT, SERVICE, Predict, Request, Response, answer, error_of, mesh, request
from opentelemetry.trace import SpanKind
from waymesh.eta.v1 import eta_pb2

from services.mesh import errors
from services.mesh.chain.invoke import unary
from services.mesh.chain.method import describe_method
from services.mesh.retry import RetryPolicy

LIMIT = 1 << 20


async def asks_to_come_back(_request: Request, _context: Any) -> Response:
    raise errors.ResourceExhausted("too many", retry_after_s=1.5)


async def names_a_field(_request: Request, _context: Any) -> Response:
    raise errors.InvalidArgument("wrong", violations=[errors.FieldViolation("query.ëta", "must be 100%")])


async def breaks(_request: Request, _context: Any) -> Response:
    raise RuntimeError("with a secret")


async def sends_no_details(_request: Request, context: Any) -> Response:
    await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "plain")
    raise AssertionError


async def answers_too_much(_request: Request, _context: Any) -> Response:
    return Response(prediction=eta_pb2.EtaPrediction(order_id="x" * (LIMIT + 1)))


async def hangs(_request: Request, context: Any) -> Response:
    await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "of the server's own clock")
    raise AssertionError


async def outcome(predict: Predict, path: str, order_id: str, *, wire: bool) -> Mapping[str, object]:
    """What is seen of one call by one of the two clients."""
    async with mesh(tracing=True) as rig:
        server = await rig.serve(predict)
        channel = rig.client(max_message_mib=1, retry=RetryPolicy(retries=0)).channel(
            f"localhost:{server.port}"
        )
        method = describe_method(path)
        codec = (Request.SerializeToString, Response.FromString)
        raw = channel.quick_unary(path, *codec) if wire else channel.bare.unary_unary(path, *codec)
        call = channel.chain.begin(method, 5.0, None)
        seen: dict[str, object] = {}
        try:
            seen["response"] = await unary(channel.chain, call, raw, request(order_id), {})
        except errors.MeshError as error:
            seen |= {name: getattr(error, name) for name in ("message", "reason", "violations", "from_peer")}
            seen |= {"type": type(error), "metadata": dict(error.metadata), "again": error.retry_after_s}
        [span] = [each for each in rig.spans() if each.kind is SpanKind.CLIENT]
        attributes = dict(span.attributes or {})
        assert attributes.pop("server.address") == channel.chain.target
        assert attributes.pop("waymesh.request_id")
        seen["span"] = (span.name, span.status.status_code, span.status.description, attributes)
        for code in grpc.StatusCode:
            labels = {"grpc_service": SERVICE, "grpc_method": path.rpartition("/")[2], "grpc_code": code.name}
            name = "grpc_client_handling_seconds_count"
            seen[code.name] = rig.telemetry.registry.get_sample_value(name, labels)
        return seen


@pytest.mark.parametrize(
    ("predict", "path", "order_id"),
    [
        (answer, PREDICT, "o"),
        (answer, f"/{SERVICE}/NoSuchMethod", "o"),
        (answer, PREDICT, ""),  # against the rules
        (answer, PREDICT, "x" * LIMIT),  # larger than may be sent
        (answers_too_much, PREDICT, "o"),
        (asks_to_come_back, PREDICT, "o"),
        (names_a_field, PREDICT, "o"),
        (breaks, PREDICT, "o"),
        (sends_no_details, PREDICT, "o"),
        (hangs, PREDICT, "o"),
        *((error_of(code), PREDICT, "o") for code in grpc.StatusCode if code is not grpc.StatusCode.OK),
    ],
)
async def test_a_call_ends_the_same_by_either_client(predict: Predict, path: str, order_id: str) -> None:
    by_wire = await outcome(predict, path, order_id, wire=True)
    by_core = await outcome(predict, path, order_id, wire=False)
    assert by_wire == by_core
    assert any(by_wire[code.name] for code in grpc.StatusCode)
