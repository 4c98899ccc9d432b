"""Servers and clients with certificates, right and wrong ones."""

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
from mesh_rig import PREDICT, Mesh, Request, Response, Stub, request

from services.mesh.chain.invoke import unary
from services.mesh.chain.method import describe_method
from services.mesh.client import ClientFactory
from services.mesh.retry import RetryPolicy
from services.mesh.server import GrpcServer
from services.mesh.tls.files import Files
from services.mesh.tls.identity import SpiffeId
from services.mesh.tls.live import LiveTls
from tests.certificates import FOLDER, Certificate, Paths

LIMIT_S = 10.0
NO_RETRY = RetryPolicy(retries=0)
BY = ("grpc.aio", "wire")


def live(paths: Paths, **options: Any) -> LiveTls:
    """What a process does with the files."""
    return LiveTls(Files(paths.certificate, paths.key, paths.authorities), **options)


class Shown:
    """Stands in for LiveTls with what that would refuse to show: an expired certificate, or none."""

    def __init__(self, certificate: Certificate, folder: Path, *, shows: bool = True) -> None:
        paths = certificate.write(folder)
        self.current = self
        self.id = SpiffeId(FOLDER, "eta")
        self._certificate = certificate
        self._shows = shows
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.client.load_verify_locations(paths.authorities)
        self.client.set_alpn_protocols(["h2"])
        if shows:
            self.client.load_cert_chain(paths.certificate, paths.key)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        certificate = self._certificate
        if not self._shows:
            return grpc.ssl_channel_credentials(certificate.authorities)
        return grpc.ssl_channel_credentials(certificate.authorities, certificate.key, certificate.certificate)

    def server_credentials(self) -> grpc.ServerCredentials:
        certificate = self._certificate
        return grpc.ssl_server_credentials(
            [(certificate.key, certificate.certificate)], certificate.authorities, True
        )

    def on_change(self, _listener: object) -> None: ...

    def forget(self, _listener: object) -> None: ...


def shown(certificate: Certificate, folder: Path, **options: bool) -> LiveTls:
    """Of the type that servers and clients ask for."""
    return cast(LiveTls, Shown(certificate, folder, **options))


def caller(factory: ClientFactory, target: str, by: str) -> Callable[[], Any]:
    """Makes one call of PredictEta by one of the two transports, through the mesh's links."""
    if by == "grpc.aio":
        stub = factory.stub(Stub, target)

        async def core() -> Any:
            return await stub.PredictEta(request(), timeout=LIMIT_S)

        return core
    channel = factory.channel(target)
    raw = channel.quick_unary(PREDICT, Request.SerializeToString, Response.FromString)

    async def wire() -> Any:
        call = channel.chain.begin(describe_method(PREDICT), LIMIT_S, None)
        return await unary(channel.chain, call, raw, request(), {})

    return wire


class Served:
    """A server that notes each call that came through to its handler."""

    def __init__(self, server: GrpcServer, seen: list[object]) -> None:
        self.server = server
        self.seen = seen

    @property
    def target(self) -> str:
        """By name: certificates are for `localhost` as well."""
        return f"localhost:{self.server.port}"


async def serve(rig: Mesh, tls: LiveTls | None, **options: Any) -> Served:
    """A server of eta."""
    seen: list[object] = []

    async def predict(message: Request, _context: Any) -> Response:
        seen.append(message)
        return Response()

    return Served(await rig.serve(predict, host="localhost", tls=tls, **options), seen)


@asynccontextmanager
async def following(*each: LiveTls) -> AsyncIterator[None]:
    """Their files are looked at while the block runs."""
    import asyncio

    tasks = [asyncio.create_task(one.watch()) for one in each]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
