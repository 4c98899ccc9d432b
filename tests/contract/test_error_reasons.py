"""Every reason comes with what its contract promises: metadata by name, and when to try again."""

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from mesh_rig import Request, address, answer, mesh, request
from waymesh.mesh.v1.error_reason_pb2 import ErrorReason

from services.gateway import caller, faults
from services.mesh import deadline, errors
from services.mesh.breaker import Breaker, BreakerPolicy
from services.mesh.chain.server.call import ServerCall
from services.mesh.chain.server.deadline import DeadlineLink
from services.mesh.errors import MeshError
from services.mesh.retry import RetryPolicy

ROOT = Path(__file__).parents[2]
PREFIX = "ERROR_REASON_"
NO_RETRY = RetryPolicy(retries=0)


class Promise(NamedTuple):
    """What a reason's comment says: for each key its alternatives, whether it may be missing, RetryInfo."""

    keys: list[set[str]]
    sometimes: bool
    retry: bool

    def kept_by(self, given: set[str]) -> bool:
        """Nothing that is not promised, and all that is."""
        known = set().union(*self.keys)
        return given <= known and (all(one & given for one in self.keys) or (self.sometimes and not given))


def promises() -> dict[str, Promise]:
    """The comments of the contract, by reason."""
    text = (ROOT / "protos/waymesh/mesh/v1/error_reason.proto").read_text()
    found = {}
    for comment, name in re.findall(rf"((?:^ *//.*\n)+) *({PREFIX}\w+) = ", text, re.MULTILINE):
        flat = re.sub(r"\s*\n? *// ?", " ", comment)
        said = re.search(r"[^o] Metadata: (.*?)\. (?:[A-Z]|$)", flat + " X")
        parts = said[1].split(", ") if said is not None else []
        keys = [names for part in parts if (names := set(re.findall(r"`(\w+)`", part)))]
        found[name] = Promise(keys, "where" in (said[1] if said else ""), "RetryInfo" in flat)
    return found


PROMISES = promises()


class Raised(NamedTuple):
    place: str
    reason: str
    keys: set[str] | None
    """None where the program does not say them in place."""
    retry: bool


def raised() -> Iterator[Raised]:
    """Every call in the services that names a reason."""
    for path in sorted((ROOT / "services").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            words = {word.arg: word.value for word in node.keywords}
            reason = words.get("reason")
            if not isinstance(reason, ast.Name) or not reason.id.startswith(PREFIX):
                continue
            given = words.get("metadata")
            keys: set[str] | None = set()
            if isinstance(given, ast.Dict) and all(isinstance(key, ast.Constant) for key in given.keys):
                keys = {str(key.value) for key in given.keys if isinstance(key, ast.Constant)}
            elif given is not None:
                keys = None
            place = f"{path.relative_to(ROOT)}:{node.lineno}"
            yield Raised(place, reason.id, keys, "retry_after_s" in words)


CALLS = list(raised())


def test_the_contract_is_read_as_it_stands() -> None:
    assert PROMISES[f"{PREFIX}OVERLOADED"] == Promise([], False, True)
    assert PROMISES[f"{PREFIX}UNKNOWN_TASK"] == Promise([{"task"}], False, False)
    assert PROMISES[f"{PREFIX}BREAKER_OPEN"] == Promise([{"target"}, {"method"}], False, True)
    assert PROMISES[f"{PREFIX}TARGET_UNAVAILABLE"] == Promise([{"target"}], True, True)
    assert PROMISES[f"{PREFIX}STALE_REVISION"].keys == [{"order_id", "driver_id"}, {"revision"}]
    assert set(PROMISES) == set(ErrorReason.keys())


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.place}-{call.reason}")
def test_every_error_that_is_raised_comes_with_what_its_reason_promises(call: Raised) -> None:
    promise = PROMISES[call.reason]
    if call.keys is not None:
        assert promise.kept_by(call.keys), f"{call.place}: {call.keys} instead of {promise.keys}"
    assert call.retry == promise.retry, call.place


def kept(error: MeshError, *keys: str) -> None:
    """By an error as it is, and as it arrives elsewhere."""
    for one in (error, errors.from_status(errors.to_status(error))):
        promise = PROMISES[PREFIX + one.reason_name]
        assert promise.kept_by(set(one.metadata)), one
        assert set(one.metadata) >= set(keys)
        assert all(one.metadata.values())
        assert (one.retry_after_s is not None) == promise.retry


def test_what_is_made_of_other_errors_keeps_the_promise_too() -> None:
    for code in grpc.StatusCode:
        for details in ("", "Received message larger than max (5 vs. 4)", "metadata is larger than max"):
            rpc_error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)
            error = errors.from_rpc_error(rpc_error, "eta", "/waymesh.eta.v1.EtaService/Foo", 0.3)
            if error.reason:
                kept(error)
    for foreign in (TimeoutError(), ConnectionError(), ValueError(), asyncio.CancelledError()):
        kept(errors.translate(foreign))
    kept(caller.no_target("eta"), "target")
    kept(faults.too_late(300), "budget_ms")
    breaker = Breaker("eta", "/waymesh.eta.v1.EtaService/PredictEta", BreakerPolicy(failures=1))
    breaker.settle(breaker.admit(), errors.Unavailable("down"))
    with pytest.raises(errors.Unavailable) as refused:
        breaker.admit()
    kept(refused.value, "target", "method")


def test_a_passed_budget_says_how_long_it_was() -> None:
    now = 100.0
    with deadline.budget(0.3, lambda: now):
        with pytest.raises(errors.DeadlineExceeded) as nothing_left:
            deadline.grant(None, clock=lambda: now + 0.295)
        assert deadline.passed().metadata == {"budget_ms": "300"}
        with deadline.budget(5.0, lambda: now):  # which cannot be longer than the one around it
            assert deadline.passed().metadata == {"budget_ms": "300"}
    assert nothing_left.value.metadata == {"budget_ms": "300"}
    with pytest.raises(errors.DeadlineExceeded) as own:
        deadline.grant(0.0005, of_s=0.25)
    assert own.value.metadata == {"budget_ms": "250"}
    assert deadline.passed().metadata == {}


async def test_what_the_transport_refuses_says_what_and_how_much() -> None:
    async with mesh() as rig:
        server = await rig.serve(answer, max_message_mib=1)
        stub = rig.stub(server, retry=NO_RETRY)
        with pytest.raises(errors.ResourceExhausted) as too_large:
            await stub.PredictEta(request("x" * (2 << 20)))
        kept(too_large.value, "limit_bytes")
        assert too_large.value.metadata == {"limit_bytes": str(1 << 20)}
        channel = rig.client(retry=NO_RETRY).channel(address(server))
        missing: Any = channel.unary_unary(
            "/waymesh.eta.v1.EtaService/Foo",
            request_serializer=Request.SerializeToString,
            response_deserializer=Request.FromString,
        )
        with pytest.raises(errors.Unimplemented) as unimplemented:
            await missing(request())
        kept(unimplemented.value, "method")
        assert unimplemented.value.metadata == {"method": "/waymesh.eta.v1.EtaService/Foo"}


async def test_a_call_that_takes_too_long_says_what_it_was_granted() -> None:
    async with mesh() as rig:

        async def waits(_request: Any, _context: Any) -> Any:
            await asyncio.Event().wait()

        stub = rig.stub(await rig.serve(waits), retry=NO_RETRY)
        with pytest.raises(errors.DeadlineExceeded) as late:
            await stub.PredictEta(request(), timeout=0.2)
        kept(late.value, "budget_ms")
        assert 0 < int(late.value.metadata["budget_ms"]) <= 200
        with pytest.raises(errors.DeadlineExceeded) as unsent:
            await stub.PredictEta(request(), timeout=0.001)
        assert unsent.value.metadata == {"budget_ms": "1"}


async def test_a_call_that_arrives_too_late_says_so_with_what_was_left() -> None:
    class Context:
        def time_remaining(self) -> float:
            return -0.1

    call = ServerCall(None, None, Context(), {}, 100.0)  # type: ignore[arg-type]
    with pytest.raises(errors.DeadlineExceeded) as late:
        DeadlineLink().before(call)
    kept(late.value, "budget_ms")
    deadline.begin(None)
