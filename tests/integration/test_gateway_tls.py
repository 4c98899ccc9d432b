"""The gateway's public listener over TLS: who may ask, what goes wrong, and what a rotation costs."""

import asyncio
import inspect
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop
from gateway_rig import GPS, KEY, Client, Rig, gateway
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from services.gateway import handshakes
from tests.certificates import Authority, Certificate, Paths
from tests.processes import until

HOUR = timedelta(hours=1)
OURS, THEIRS = Authority("ours"), Authority("theirs")
HANG_S = 60.0


def context(certificate: Certificate, folder: Path, *, shows: bool = True) -> ssl.SSLContext:
    """Of a client that shows a certificate, or none."""
    paths = certificate.write(folder)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.load_verify_locations(paths.authorities)
    if shows:
        made.load_cert_chain(paths.certificate, paths.key)
    return made


@asynccontextmanager
async def served(folder: Path, **settings: Any) -> AsyncIterator[tuple[Rig, Paths]]:
    """A gateway with certificates before an eta with certificates."""
    paths = OURS.issue("gateway").mount(folder / "gateway")
    files = {
        "tls_cert_file": paths.certificate,
        "tls_key_file": paths.key,
        "tls_ca_file": paths.authorities,
    }
    behind = OURS.issue("eta").mount(folder / "eta")
    async with gateway(behind=behind, **files, **settings) as rig, asyncio.timeout(HANG_S):
        yield rig, paths


@pytest.mark.parametrize("name", ["edge", "operator"])
async def test_who_may_ask_gets_an_answer_from_behind(tmp_path: Path, name: str) -> None:
    async with served(tmp_path) as (rig, _):
        client = rig.client(tls=context(OURS.issue(name), tmp_path / name))
        for _ in range(2):
            reply = await client.task("report_gps", GPS)
            assert (reply.status, reply.json["result"]["event_id"]) == (200, "event_1")
        assert client.connections == 1


@pytest.mark.parametrize("name", ["eta", "gateway", "nobody"])
async def test_who_does_not_call_the_gateway_is_told_so(tmp_path: Path, name: str) -> None:
    async with served(tmp_path) as (rig, _):
        client = rig.client(tls=context(OURS.issue(name), tmp_path / name))
        for path in ("/health", "/metrics", "/nothing"):
            reply = await client.ask("GET", path)
            assert (reply.status, reply.json["reason"]) == (403, "PEER_NOT_ALLOWED")
        reply = await client.task("report_gps", GPS)
        assert (reply.status, reply.headers["connection"]) == (403, "close")


async def test_a_certificate_that_names_nobody_is_a_401(tmp_path: Path) -> None:
    async with served(tmp_path) as (rig, _):
        reply = await rig.client(tls=context(OURS.issue("edge", uris=()), tmp_path / "e")).task(
            "report_gps", GPS
        )
        assert (reply.status, reply.json["reason"]) == (401, "PEER_NOT_ALLOWED")


async def test_further_callers_can_be_named(tmp_path: Path) -> None:
    async with served(tmp_path, tls_allowed_peers="partner") as (rig, _):
        client = rig.client(tls=context(OURS.issue("partner"), tmp_path / "p"))
        assert (await client.task("report_gps", GPS)).status == 200


@pytest.mark.parametrize(
    "certificate",
    [
        None,
        lambda: THEIRS.issue("edge", trusted=OURS.trusted),
        lambda: OURS.issue("edge", self_signed=True),
        lambda: OURS.issue("edge", begins=-2 * HOUR, ends=-HOUR),
        lambda: OURS.issue("edge", begins=HOUR, ends=2 * HOUR),
    ],
    ids=["none", "other-authority", "self-signed", "expired", "not-yet-valid"],
)
async def test_a_certificate_that_is_not_taken_gets_no_answer(
    tmp_path: Path, certificate: Callable[[], Certificate] | None
) -> None:
    async with served(tmp_path) as (rig, _):
        shows = OURS.issue("edge") if certificate is None else certificate()
        client = rig.client(tls=context(shows, tmp_path / "e", shows=certificate is not None))
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await client.task("report_gps", GPS)
        await until(lambda: rig.metric("http_tls_handshakes_failed_total") == 1, "it is counted")
        assert rig.eta is not None


async def test_plain_requests_get_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as (rig, _):
        reader, writer = await rig.client().connect()
        writer.write(f"GET /health HTTP/1.1\r\nHost: x\r\nX-API-Key: {KEY}\r\n\r\n".encode())
        assert b"HTTP" not in await reader.read()


async def test_runtimes_stay_plain_on_loopback(tmp_path: Path) -> None:
    async with served(tmp_path) as (rig, _):
        reply = await rig.client("agent-demo").task("report_gps", GPS, path="/run", key=None)
        assert reply.status == 200


async def test_slow_and_broken_handshakes_end_and_harm_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        handshakes.Handshakes.__init__, "__kwdefaults__", {"failed": lambda: None, "limit_s": 0.3}
    )
    async with served(tmp_path) as (rig, _):
        silent = [rig.client() for _ in range(20)]
        readers = []
        for number, client in enumerate(silent):
            reader, writer = await client.connect()
            readers.append(reader)
            writer.write(b"\x16\x03\x01\x02\x00\x01\x00"[: number % 8])  # the beginning of a ClientHello
        good = rig.client(tls=context(OURS.issue("edge"), tmp_path / "e"))
        assert (await good.task("report_gps", GPS)).status == 200
        for client in silent[:5]:
            await client.close()
        for reader in readers[5:]:
            assert await reader.read() == b""  # hung up on
        await until(
            lambda: rig.metric("http_tls_handshakes_failed_total") == 20,
            "each is counted",
        )
        assert (await good.task("report_gps", GPS)).status == 200


async def test_those_who_begin_no_handshake_make_room_for_those_who_do(tmp_path: Path) -> None:
    async with served(tmp_path, max_connections=64) as (rig, _):
        silent = [rig.client() for _ in range(80)]
        for client in silent:
            await client.connect()
        tls = context(OURS.issue("edge"), tmp_path / "e")
        for _ in range(3):
            good = rig.client(tls=tls)
            assert (await good.task("report_gps", GPS)).status == 200
        assert rig.gateway.http.connections <= 64
        for client in silent:
            await client.close()
        await until(lambda: rig.gateway.http.connections == 3, "only those who speak are left")


async def test_a_body_that_is_too_large_is_answered_over_tls_too(tmp_path: Path) -> None:
    async with served(tmp_path, max_body_bytes=1024) as (rig, _):
        client = rig.client(tls=context(OURS.issue("edge"), tmp_path / "e"))
        reply = await client.post("/execute", b"x" * (1 << 20))
        assert (reply.status, reply.json["reason"]) == (413, "BODY_TOO_LARGE")
        reply = await client.ask("GET", "/" + "x" * 20_000)
        assert (reply.status, reply.json["reason"]) == (431, "HEADERS_TOO_LARGE")
        assert (await client.task("report_gps", GPS)).status == 200


async def test_a_rotation_under_load_fails_no_request(tmp_path: Path) -> None:
    new = Authority("new")
    both = OURS.trusted + new.trusted
    async with served(tmp_path) as (rig, _):
        answered, failed, stop = 0, [], asyncio.Event()
        shown = [context(OURS.issue("edge", trusted=both), tmp_path / "edge")]

        async def ask() -> None:
            nonlocal answered
            while not stop.is_set():
                # A new connection for each request: handshakes are what a rotation changes.
                client = Client(rig.gateway.public.port, tls=shown[-1])
                try:
                    reply = await client.task("report_gps", GPS)
                    assert reply.status == 200
                    answered += 1
                except BaseException as error:
                    failed.append(error)
                await client.close()

        async def goes_on() -> None:
            before = answered
            await until(lambda: answered > before + 10, "requests are answered")

        callers = [asyncio.create_task(ask()) for _ in range(3)]
        kept = rig.client(tls=shown[0])
        for step in (
            OURS.issue("gateway", trusted=both),
            new.issue("gateway", trusted=both),
            new.issue("gateway", trusted=new.trusted),
        ):
            if step.authorities == new.trusted:
                shown.append(context(new.issue("edge", trusted=both), tmp_path / "edge-new"))
                await goes_on()
            assert (await kept.task("report_gps", GPS)).status == 200
            step.mount(tmp_path / "gateway")
            assert rig.gateway.tls is not None
            assert rig.gateway.tls.look()
            await goes_on()
        stop.set()
        await asyncio.gather(*callers)
        assert failed == []
        # What was connected under another authority is told with an answer to connect anew, and no sooner.
        await kept.close()
        former = Client(rig.gateway.public.port, tls=shown[0])
        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await former.task("report_gps", GPS)


async def test_a_drain_waits_for_handshakes_and_for_the_requests_that_follow(tmp_path: Path) -> None:
    async with served(tmp_path) as (rig, _):
        tls = context(OURS.issue("edge"), tmp_path / "e")
        clients = [rig.client(tls=tls) for _ in range(5)]
        asked = [asyncio.create_task(client.task("report_gps", GPS)) for client in clients]
        await until(lambda: _handshakes(rig) > 0 or any(each.done() for each in asked), "they connect")
        await rig.gateway.http.drain(0)
        replies = await asyncio.gather(*asked, return_exceptions=True)
        statuses = [reply.status for reply in replies if not isinstance(reply, BaseException)]
        # Those that the kernel has not given to this process are refused; none that it has.
        assert all(isinstance(reply, OSError) for reply in replies if isinstance(reply, BaseException))
        assert statuses
        assert set(statuses) == {200}


def _handshakes(rig: Rig) -> int:
    found = rig.gateway.public.handshakes
    assert found is not None
    return found.under_way


async def test_with_an_admin_port_the_public_one_tells_less(tmp_path: Path) -> None:
    async with served(tmp_path, admin=0) as (rig, _):
        public = rig.client(tls=context(OURS.issue("edge"), tmp_path / "e"))
        admin = rig.client("admin")
        assert (await public.ask("GET", "/metrics")).status == 404
        assert (await public.ask("GET", "/health/ready")).json["checks"] == {}
        assert (await admin.ask("GET", "/metrics")).status == 200
        assert "eta" in (await admin.ask("GET", "/health")).json["checks"]
        assert (await admin.task("report_gps", GPS)).status == 404


async def test_a_probe_asks_the_plain_health_port(tmp_path: Path) -> None:
    async with served(tmp_path, health_port=0) as (rig, _):
        assert rig.gateway.health_port is not None
        target = f"127.0.0.1:{rig.gateway.health_port.port}"
        async with grpc.aio.insecure_channel(target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            rig.gateway.status.draining = True
            answer = await stub.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_certificate_of_its_own_leaves_connections_alone_and_another_authority_ends_them(
    tmp_path: Path,
) -> None:
    async with served(tmp_path) as (rig, _):
        tls = rig.gateway.tls
        assert tls is not None
        client = rig.client(tls=context(OURS.issue("edge"), tmp_path / "e"))
        assert (await client.task("report_gps", GPS)).status == 200
        OURS.issue("gateway").mount(tmp_path / "gateway")
        assert tls.look()
        assert "connection" not in (await client.task("report_gps", GPS)).headers
        OURS.issue("gateway", trusted=THEIRS.trusted).mount(tmp_path / "gateway")
        assert tls.look()
        reply = await client.task("report_gps", GPS)
        assert (reply.status, reply.headers["connection"]) == (200, "close")


@pytest.mark.parametrize(
    "test",
    [
        test_slow_and_broken_handshakes_end_and_harm_nobody,
        test_those_who_begin_no_handshake_make_room_for_those_who_do,
        test_a_rotation_under_load_fails_no_request,
        test_a_drain_waits_for_handshakes_and_for_the_requests_that_follow,
        test_a_body_that_is_too_large_is_answered_over_tls_too,
        test_plain_requests_get_nothing,
    ],
)
def test_on_uvloop_which_has_a_tls_of_its_own(
    test: Callable[..., Any], request: pytest.FixtureRequest
) -> None:
    uvloop.run(test(**{name: request.getfixturevalue(name) for name in inspect.signature(test).parameters}))
