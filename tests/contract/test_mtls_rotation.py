"""Certificates change under load, at both ends and of the authority too, and no call notices."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from mesh_rig import HANG_S, Eta, Mesh, Request, Response, Stub, mesh, until
from tls_rig import BY, NO_RETRY, caller, live, shown
from waymesh.eta.v1 import eta_service_pb2

from services.mesh import errors
from services.mesh.client import ClientFactory
from services.mesh.telemetry import Telemetry
from tests.certificates import Authority, Certificate

CALLERS = 4


class Load:
    """Steady calls by both transports and an open stream, from one process of route to one of eta."""

    def __init__(self, factory: ClientFactory, target: str) -> None:
        self._factory = factory
        self._target = target
        self.answered = dict.fromkeys(BY, 0)
        self.streamed = 0
        self.failed: list[BaseException] = []
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        for by in BY:
            call = caller(self._factory, self._target, by)
            self._tasks += [asyncio.create_task(self._call(by, call)) for _ in range(CALLERS)]
        self._tasks.append(asyncio.create_task(self._listen()))
        await self.goes_on()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._stop.set()
        async with asyncio.timeout(HANG_S):
            await asyncio.gather(*self._tasks)

    async def goes_on(self) -> None:
        """Until every caller, and the stream, has got more."""
        before, streamed = dict(self.answered), self.streamed
        await until(
            lambda: (
                self.streamed > streamed + 2
                and all(self.answered[by] > before[by] + 5 * CALLERS for by in BY)
            )
        )

    async def _call(self, by: str, call: Any) -> None:
        while not self._stop.is_set():
            try:
                await call()
                self.answered[by] += 1
            except BaseException as error:
                self.failed.append(error)
            await asyncio.sleep(0.002)

    async def _listen(self) -> None:
        stub = self._factory.stub(Stub, self._target)
        stream = stub.WatchEta(eta_service_pb2.WatchEtaRequest())
        try:
            async for _ in stream:
                self.streamed += 1
                if self._stop.is_set():
                    break
        except BaseException as error:
            self.failed.append(error)
        finally:
            stream.cancel()


async def endless(_request: Any, _context: Any) -> AsyncIterator[eta_service_pb2.WatchEtaResponse]:
    while True:
        yield eta_service_pb2.WatchEtaResponse(cursor="1")
        await asyncio.sleep(0.01)


class Shown:
    """Which certificates of callers the server has seen, by serial number."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    async def predict(self, _request: Request, context: Any) -> Response:
        self.seen |= set(context.auth_context()["x509_pem_cert"])
        return Response()


class Ends:
    """Both ends and what they show."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, eta: Certificate, route: Certificate) -> None:
        """Puts certificates where they are read, as Kubernetes does."""
        self.eta, self.route = eta.mount(self._folder / "eta"), route.mount(self._folder / "route")


async def test_a_rotation_of_certificates_and_of_their_authority_fails_no_call(tmp_path: Path) -> None:
    old, new = Authority("old"), Authority("new")
    both = old.trusted + new.trusted
    ends, shown_to = Ends(tmp_path), Shown()
    ends.put(old.issue("eta"), old.issue("route"))
    eta, route = live(ends.eta), live(ends.route)
    last = new.issue("route", trusted=new.trusted)
    async with mesh() as rig:
        server = await rig.serve(Eta(shown_to.predict, endless), host="localhost", tls=eta)
        target = f"localhost:{server.port}"
        factory = rig.client(tls=route, retry=NO_RETRY)
        async with Load(factory, target) as load:
            for of_eta, of_route in (
                (old.issue("eta"), old.issue("route")),
                # Of an authority: first everybody trusts the new one too, then shows what it signed, and
                # last trusts it alone.
                (old.issue("eta", trusted=both), old.issue("route", trusted=both)),
                (new.issue("eta", trusted=both), new.issue("route", trusted=both)),
                (new.issue("eta", trusted=new.trusted), last),
            ):
                ends.put(of_eta, of_route)
                # Not together: there is always a while in which one end has changed and the other has not.
                assert eta.look()
                await load.goes_on()
                assert route.look()
                await load.goes_on()
                await until(lambda shows=of_route.certificate: shows in shown_to.seen)
            assert load.failed == []
        assert last.certificate in shown_to.seen
        await _is_refused(rig, target, old.issue("route", trusted=new.trusted), tmp_path)


async def _is_refused(rig: Mesh, target: str, certificate: Certificate, folder: Path) -> None:
    """What the former authority has signed counts no more."""
    former = rig.client(tls=shown(certificate, folder / "former"), retry=NO_RETRY)
    for by in BY:
        with pytest.raises(errors.Unavailable):
            await caller(former, target, by)()


@pytest.mark.parametrize("by", BY)
async def test_a_peer_that_does_not_take_the_new_certificate_yet_is_called_with_the_old_one(
    tmp_path: Path, by: str
) -> None:
    old, new = Authority("old"), Authority("new")
    ends, shown_to = Ends(tmp_path), Shown()
    ends.put(old.issue("eta"), old.issue("route"))
    eta, route = live(ends.eta), live(ends.route)
    first = ends.route.certificate.read_bytes()
    async with mesh() as rig:
        server = await rig.serve(Eta(shown_to.predict), host="localhost", tls=eta)
        call = caller(rig.client(tls=route, retry=NO_RETRY), f"localhost:{server.port}", by)
        await call()
        early = new.issue("route", trusted=old.trusted)
        early.mount(tmp_path / "route")
        assert route.look()
        for _ in range(20):
            await call()
            await asyncio.sleep(0.01)
        assert shown_to.seen == {first}

        old.issue("eta", trusted=old.trusted + new.trusted).mount(tmp_path / "eta")
        assert eta.look()

        async def shows_it() -> None:
            while early.certificate not in shown_to.seen:
                await call()

        await asyncio.wait_for(shows_it(), HANG_S)


@pytest.mark.parametrize("by", BY)
async def test_after_a_rotation_the_former_connections_are_closed(tmp_path: Path, by: str) -> None:
    authority = Authority()
    ends = Ends(tmp_path)
    ends.put(authority.issue("eta"), authority.issue("route"))
    route = live(ends.route)
    async with mesh() as rig:
        server = await rig.serve(tls=live(ends.eta))
        call = caller(rig.client(tls=route, retry=NO_RETRY), f"127.0.0.1:{server.port}", by)
        await call()
        [first] = _connections(server.port)
        authority.issue("route").mount(tmp_path / "route")
        assert route.look()

        async def is_replaced() -> None:
            while first in (now := _connections(server.port)) or len(now) != 1:
                await call()

        await asyncio.wait_for(is_replaced(), HANG_S)


async def test_a_client_that_is_closed_has_no_connection_left(tmp_path: Path) -> None:
    """Not even one in its farewell, with which no loop may end."""
    authority = Authority()
    ends = Ends(tmp_path)
    ends.put(authority.issue("eta"), authority.issue("route"))
    async with mesh() as rig:
        server = await rig.serve(tls=live(ends.eta))
        factory = ClientFactory("route", telemetry=Telemetry("route"), tls=live(ends.route))
        await caller(factory, f"127.0.0.1:{server.port}", "wire")()
        assert len(_connections(server.port)) == 1
        await factory.close()
        assert _connections(server.port) == set()


def _connections(port: int) -> set[int]:
    """Our ends of what is connected to a port of this process."""
    import psutil

    return {
        each.laddr.port
        for each in psutil.Process().net_connections("tcp")
        if each.raddr and each.raddr.port == port and each.status == psutil.CONN_ESTABLISHED
    }


def test_on_uvloop_which_has_a_tls_of_its_own(tmp_path: Path) -> None:
    uvloop.run(test_a_rotation_of_certificates_and_of_their_authority_fails_no_call(tmp_path))


def test_on_uvloop_a_client_that_is_closed_has_no_connection_left(tmp_path: Path) -> None:
    uvloop.run(test_a_client_that_is_closed_has_no_connection_left(tmp_path))
