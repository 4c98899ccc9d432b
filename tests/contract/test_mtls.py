"""TLS between services, on real sockets and by both transports: who is let in, and who is believed."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc  # type: ignore[import-untyped]
from mesh_rig import Mesh, Request, Response, Stub, mesh, request
from tls_rig import BY, NO_RETRY, caller, live, serve, shown
from waymesh.mesh.v1.error_reason_pb2 import (
    ERROR_REASON_PEER_NOT_ALLOWED,
    ERROR_REASON_TARGET_UNAVAILABLE,
)

from services.mesh import errors, principal, transport
from services.mesh.tls import peer
from tests.certificates import FOLDER, Authority, Certificate

HOUR = timedelta(hours=1)
OTHER = "spiffe://waymesh.test/ns/other/sa/"
OURS, THEIRS, FORMER = Authority("ours"), Authority("theirs"), Authority("former")

by_either = pytest.mark.parametrize("by", BY)


def of(service: str, **options: object) -> Certificate:
    return OURS.issue(service, **options)  # type: ignore[arg-type]


async def fails(rig: Mesh, target: str, tls: object, by: str) -> errors.MeshError:
    """What a call with these certificates comes to."""
    factory = rig.client(tls=tls, retry=NO_RETRY)
    with pytest.raises(errors.MeshError) as failed:
        await caller(factory, target, by)()
    return failed.value


NOT_LET_IN = {
    "other-authority": lambda: THEIRS.issue("route", trusted=OURS.trusted),
    "self-signed": lambda: of("route", self_signed=True),
    "expired": lambda: of("route", begins=-2 * HOUR, ends=-HOUR),
    "not-yet-valid": lambda: of("route", begins=HOUR, ends=2 * HOUR),
    "authority-gone-by-rotation": lambda: FORMER.issue("route", trusted=OURS.trusted),
}


@pytest.mark.parametrize("case", [*NOT_LET_IN, "none"])
@by_either
async def test_a_client_whose_certificate_is_not_taken_gets_no_connection(
    tmp_path: Path, by: str, case: str
) -> None:
    async with mesh() as rig:
        served = await serve(rig, live(of("eta").write(tmp_path / "eta")))
        certificate = NOT_LET_IN.get(case, lambda: of("route"))()
        error = await fails(rig, served.target, shown(certificate, tmp_path / "r", shows=case != "none"), by)
    assert (type(error), error.reason) == (errors.Unavailable, ERROR_REASON_TARGET_UNAVAILABLE)
    assert served.seen == []


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        (lambda: of("feedback"), "feedback"),
        (lambda: of("nobody"), "nobody"),
        (lambda: of("route", uris=()), ""),
        (lambda: of("route", uris=("https://waymesh.test/route",)), ""),
        (lambda: of("route", uris=(FOLDER + "route", FOLDER + "gateway")), ""),
        (lambda: of("route", uris=("spiffe://elsewhere/route",)), "spiffe://elsewhere/route"),
        (lambda: of("route", uris=(OTHER + "route",)), OTHER + "route"),
        (lambda: of("route", uris=(), hosts=("route", "eta")), ""),
    ],
    ids=["not-a-caller", "unknown", "no-uri", "no-spiffe-id", "two", "other-domain", "other-folder", "no-id"],
)
@by_either
async def test_who_does_not_call_a_service_is_refused_by_name(
    tmp_path: Path, by: str, certificate: Callable[[], Certificate], said: str
) -> None:
    async with mesh() as rig:
        served = await serve(rig, live(of("eta").write(tmp_path / "eta")))
        error = await fails(rig, served.target, shown(certificate(), tmp_path / "r"), by)
    # To the caller's own callers it is a fault of the mesh, not theirs.
    assert (type(error), error.reason) == (errors.Internal, ERROR_REASON_PEER_NOT_ALLOWED)
    assert dict(error.metadata) == {"peer": said}
    assert served.seen == []


@pytest.mark.parametrize("name", ["route", "agents", "gateway", "edge", "operator"])
@by_either
async def test_those_who_call_a_service_are_let_in(tmp_path: Path, by: str, name: str) -> None:
    async with mesh() as rig:
        served = await serve(rig, live(of("eta").write(tmp_path / "eta")))
        await caller(rig.client(tls=live(of(name).write(tmp_path / name))), served.target, by)()
    assert len(served.seen) == 1


@pytest.mark.parametrize(
    ("further", "uri"),
    [("dashboards", FOLDER + "dashboards"), ("spiffe://edge.test/x/edge", "spiffe://edge.test/x/edge")],
)
@by_either
async def test_further_callers_can_be_named(tmp_path: Path, by: str, further: str, uri: str) -> None:
    async with mesh() as rig:
        served = await serve(rig, live(of("eta").write(tmp_path / "eta")), further_peers=[further])
        await caller(rig.client(tls=live(of("x", uris=(uri,)).write(tmp_path / "x"))), served.target, by)()
    assert len(served.seen) == 1


NOT_BELIEVED = {
    "other-authority": lambda: THEIRS.issue("eta", trusted=OURS.trusted),
    "self-signed": lambda: of("eta", self_signed=True),
    "expired": lambda: of("eta", begins=-2 * HOUR, ends=-HOUR),
    "not-yet-valid": lambda: of("eta", begins=HOUR, ends=2 * HOUR),
    "authority-gone-by-rotation": lambda: FORMER.issue("eta", trusted=OURS.trusted),
    "right-name-wrong-host": lambda: of("eta", hosts=("eta.example", "127.0.0.9")),
    "not-for-servers": lambda: of("eta", client_only=True),
}


@pytest.mark.parametrize("case", NOT_BELIEVED)
@by_either
async def test_a_server_whose_certificate_is_not_believed_is_told_nothing(
    tmp_path: Path, by: str, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with mesh() as rig:
        served = await serve(rig, shown(NOT_BELIEVED[case](), tmp_path / "eta"))
        error = await fails(rig, served.target, live(of("route").write(tmp_path / "route")), by)
    assert (type(error), error.reason) == (errors.Unavailable, ERROR_REASON_TARGET_UNAVAILABLE)
    assert served.seen == []
    # Callers are not told of addresses and certificates, the log is.
    assert "certificate" not in error.message.lower()
    assert "verif" in caplog.text.lower()


@by_either
async def test_a_plain_client_gets_nothing_of_a_server_with_tls(tmp_path: Path, by: str) -> None:
    async with mesh() as rig:
        served = await serve(rig, live(of("eta").write(tmp_path / "eta")))
        error = await fails(rig, served.target, None, by)
    assert (type(error), served.seen) == (errors.Unavailable, [])


@by_either
async def test_a_client_with_tls_tells_a_plain_server_nothing(tmp_path: Path, by: str) -> None:
    async with mesh() as rig:
        served = await serve(rig, None)
        error = await fails(rig, served.target, live(of("route").write(tmp_path / "route")), by)
    assert (type(error), served.seen) == (errors.Unavailable, [])


@by_either
async def test_who_it_is_for_is_believed_of_those_who_speak_for_others(tmp_path: Path, by: str) -> None:
    acme = principal.Principal("acme", "0123456789ab", "Ann")
    seen: dict[peer.Peer | None, principal.Principal] = {}

    async def look(_request: Request, _context: object) -> Response:
        seen[peer.current()] = principal.current()
        return Response()

    async with mesh() as rig:
        server = await rig.serve(look, tls=live(of("eta").write(tmp_path / "eta")), further_peers=["reports"])
        for name in ("gateway", "operator", "reports"):
            factory = rig.client(tls=live(of(name).write(tmp_path / name)))
            token = principal.set_current(acme)
            try:
                await caller(factory, f"127.0.0.1:{server.port}", by)()
            finally:
                principal.reset_current(token)
    found = {each.name: who for each, who in seen.items() if each is not None}
    assert found == {"gateway": acme, "operator": principal.DEFAULT, "reports": principal.DEFAULT}


async def test_health_is_for_every_certificate_of_the_mesh_and_reflection_for_callers(tmp_path: Path) -> None:
    async with mesh() as rig:
        served = await serve(rig, live(of("eta").write(tmp_path / "eta")))
        tls = live(of("feedback").write(tmp_path / "f"))
        async with grpc.aio.secure_channel(served.target, tls.channel_credentials()) as bare:
            health = await health_pb2_grpc.HealthStub(bare).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            ask = reflection_pb2.ServerReflectionRequest(list_services="*")
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                async for _ in reflection_pb2_grpc.ServerReflectionStub(bare).ServerReflectionInfo(
                    iter([ask])
                ):
                    pass
            assert failed.value.code() is grpc.StatusCode.PERMISSION_DENIED
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await Stub(bare).PredictEta(request())
            assert failed.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_the_plain_health_port_serves_health_alone(tmp_path: Path) -> None:
    async with mesh() as rig:
        served = await serve(
            rig, live(of("eta").write(tmp_path / "eta")), health_port=0, admin_host="127.0.0.1"
        )
        async with grpc.aio.insecure_channel(f"127.0.0.1:{served.server.health_port}") as bare:
            health = await health_pb2_grpc.HealthStub(bare).Check(
                health_pb2.HealthCheckRequest(service="waymesh.eta.v1.EtaService")
            )
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await Stub(bare).PredictEta(request())
            assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
            ask = reflection_pb2.ServerReflectionRequest(list_services="*")
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                async for _ in reflection_pb2_grpc.ServerReflectionStub(bare).ServerReflectionInfo(
                    iter([ask])
                ):
                    pass
            assert failed.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert served.seen == []


async def test_who_connects_and_is_silent_is_hung_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "_HANDSHAKE_MS", 200)
    async with mesh() as rig:
        served = await serve(rig, live(of("eta").write(tmp_path / "eta")))
        reader, writer = await asyncio.open_connection("localhost", served.server.port)
        writer.write(b"\x16\x03\x01")  # the beginning of a ClientHello
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()


@pytest.mark.parametrize("case", NOT_BELIEVED)
def test_on_uvloop_nobody_else_is_believed(
    tmp_path: Path, case: str, caplog: pytest.LogCaptureFixture
) -> None:
    uvloop.run(
        test_a_server_whose_certificate_is_not_believed_is_told_nothing(tmp_path, "wire", case, caplog)
    )


@pytest.mark.parametrize("case", [*NOT_LET_IN, "none"])
def test_on_uvloop_nobody_else_is_let_in(tmp_path: Path, case: str) -> None:
    uvloop.run(test_a_client_whose_certificate_is_not_taken_gets_no_connection(tmp_path, "wire", case))
