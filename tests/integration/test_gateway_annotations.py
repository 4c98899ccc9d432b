"""All that an annotation of a path can say, on a contract made for that."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import waymesh
from gateway_rig import Rig, ask, gateway

from services.gateway.rest import binding
from services.mesh.errors import FieldViolation, InvalidArgument
from services.mesh.server import GrpcServer
from services.mesh.telemetry import Telemetry
from tests.probe_contract import installed


@pytest.fixture
def probe_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waymesh, "__path__", [*waymesh.__path__, str(installed())])


@asynccontextmanager
async def probe(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    """A gateway before a service that answers with what it was asked."""
    from waymesh.probe.v1 import probe_service_pb2, probe_service_pb2_grpc  # type: ignore[import-not-found]

    async def echo(_self: object, request: Any, _context: Any) -> Any:
        if request.note == "fail":
            raise InvalidArgument("bad", violations=[FieldViolation("inner.name", "is wrong")])
        return probe_service_pb2.ProbeResponse(probe=request, numbers=request.numbers)

    names = ("ReadProbe", "ReadSpecial", "WriteProbe")
    servicer = type("Probe", (probe_service_pb2_grpc.ProbeServiceServicer,), dict.fromkeys(names, echo))
    async with AsyncExitStack() as stack:
        server = GrpcServer(
            "probe", host="127.0.0.1", port=0, admin_port=None, telemetry=Telemetry.create("probe")
        )
        server.add(probe_service_pb2_grpc.add_ProbeServiceServicer_to_server, servicer())
        await server.start()
        stack.push_async_callback(server.stop)
        monkeypatch.setenv("WAYMESH_PROBE_TARGET", f"127.0.0.1:{server.port}")
        yield await stack.enter_async_context(gateway())


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/probe/things/x", None, {"id": "x"}),
        ("GET", "/probe/things/special", None, {"id": ""}),
        ("GET", "/probe/things/x/places/-7", None, {"id": "x", "place": -7}),
        ("GET", "/probe/colours/dark_blue/true", None, {"colour": "dark_blue", "flag": True}),
        ("GET", "/probe/inner/n", None, {"inner": {"name": "n", "n": 0, "tags": []}}),
        (
            "GET",
            "/probe/inner/n?inner.n=5&inner.tags=a&inner.tags=b&inner.inner.name=m",
            None,
            {
                "inner": {
                    "name": "n",
                    "n": 5,
                    "tags": ["a", "b"],
                    "inner": {"name": "m", "n": 0, "tags": []},
                }
            },
        ),
        (
            "GET",
            "/probe/things/x?place=3&flag=false&colour=red&weight=-1.5e3&colours=red&colours=dark_blue&numbers=1",
            None,
            {
                "place": 3,
                "flag": False,
                "colour": "red",
                "weight": -1500.0,
                "colours": ["red", "dark_blue"],
                "numbers": [1],
            },
        ),
        (
            "GET",
            "/probe/things/x?at=2024-08-28T10:30:00%2B02:00&wait_s=2.5&note=a+b%2Bc&data=AAE%3D&right=r",
            None,
            {"at": "2024-08-28T08:30:00Z", "wait_s": 2.5, "note": "a b+c", "data": "AAE=", "right": "r"},
        ),
        ("GET", "/probe/things/x?&&note=", None, {"note": ""}),
        (
            "PUT",
            "/probe/things/x",
            {"place": 4, "plain": {"a": [1]}},
            {"id": "x", "place": 4, "plain": {"a": [1]}},
        ),
        ("PUT", "/probe/things/x", None, {"id": "x"}),
        (
            "PATCH",
            "/probe/things/x?place=5",
            {"name": "m"},
            {"id": "x", "place": 5, "inner": {"name": "m", "n": 0, "tags": []}},
        ),
        (
            "POST",
            "/probe/inner/n",
            {"inner": {"n": 1}, "id": "y"},
            {"id": "y", "inner": {"name": "n", "n": 1, "tags": []}},
        ),
        ("POST", "/probe/things/x/numbers", [3, 4], [3, 4]),
        ("DELETE", "/probe/things/x?note=gone", None, {"id": "x", "note": "gone"}),
    ],
)
async def test_what_fills_a_request(
    method: str, path: str, body: Any, expected: Any, probe_contract: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with probe(monkeypatch) as rig:
        reply = await ask(rig, method, path, body)
        assert reply.status == 200, reply.json
        answered = reply.json
        if isinstance(expected, list):
            assert answered == expected
            return
        shown = answered if method == "PUT" else answered["probe"]  # as its response_body says
        assert {name: shown.get(name) for name in expected} == expected


@pytest.mark.parametrize(
    ("method", "path", "body", "fields"),
    [
        ("GET", "/probe/things/x/places/far", None, ["place"]),
        ("GET", "/probe/things/x/places/99999999999", None, ["place"]),
        ("GET", "/probe/colours/green/true", None, ["colour"]),
        ("GET", "/probe/colours/red/1", None, ["flag"]),
        ("GET", "/probe/things/x?weight=nan&numbers=1&numbers=-1", None, ["weight"]),
        ("GET", "/probe/things/x?weight=1e999", None, ["weight"]),
        ("GET", "/probe/things/x?numbers=1&numbers=-1", None, ["numbers[1]"]),
        ("GET", "/probe/things/x?labels=a&inners=b&plain=c&inner=d&note.x=e", None,
         ["labels", "inners", "plain", "inner", "note.x"]),
        ("GET", "/probe/things/x?left=a&right=b", None, ["right"]),
        ("GET", "/probe/things/x?at=yesterday&wait_s=long", None, ["wait_s"]),
        ("GET", "/probe/things/x?at=yesterday", None, ["at"]),
        ("PATCH", "/probe/things/x?note=fail", {"name": "m"}, ["name"]),
        ("PATCH", "/probe/things/x", {"tags": [1]}, ["tags[0]"]),
        ("POST", "/probe/inner/n", {"inner": {"name": "m"}}, ["inner.name"]),
        ("POST", "/probe/inner/n", {"inner": 3}, ["inner.name"]),
        ("POST", "/probe/things/x/numbers", [1, "2"], ["[1]"]),
    ],
)  # fmt: skip
async def test_what_does_not_fit_a_request_is_named(
    method: str,
    path: str,
    body: Any,
    fields: list[str],
    probe_contract: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with probe(monkeypatch) as rig:
        reply = await ask(rig, method, path, body)
        assert reply.status == 400
        assert [each["field"] for each in reply.json["details"]] == fields
        assert all(each["description"] for each in reply.json["details"])


async def test_contracts_that_cannot_be_told_apart_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [*binding.load(), *binding.load()]
    monkeypatch.setattr(binding, "load", lambda: twice)
    with pytest.raises(ValueError, match="cannot be told apart"):
        async with gateway():
            pass
