"""Certificates at every end: who may come in by them, what services see, and what a rotation of all costs."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from waymesh.eta.v1.eta_service_pb2_grpc import EtaServiceStub

from services.mesh import principal
from tests.certificates import FOLDER, Authority
from tests.edge.edge_rig import RunningEdge, running_edge, trusting
from tests.edge.test_edge_services import BY_KEY, FIX
from tests.integration.gateway_rig import GPS, Client, gateway, took_in
from tools.edge import write_sds

HANG_S = 60.0
NAMES = ("public", "edge", "gateway", "eta")


@dataclass
class Mesh:
    """An edge, a gateway and a service, each with a certificate of its own."""

    edge: RunningEdge
    folder: Path
    authority: Authority
    trusted: bytes
    seen: list[dict[str, str]]

    def issue(self, authority: Authority) -> None:
        """New certificates for everybody, of this authority."""
        for name in NAMES:
            uris = () if name == "public" else None
            authority.issue(name, uris=uris, trusted=self.trusted).mount(self.folder / name)

    def channel(
        self, authority: Authority | None = None, name: str = "caller", uris: tuple[str, ...] | None = None
    ) -> grpc.aio.Channel:
        """To the typed services, with a certificate of this authority, or none."""
        roots = self.authority.trusted
        if authority is None:
            credentials = grpc.ssl_channel_credentials(roots)
        else:
            own = authority.issue(name, uris=uris)
            credentials = grpc.ssl_channel_credentials(roots, own.key, own.certificate)
        return grpc.aio.secure_channel(self.edge.internal.replace("127.0.0.1", "localhost"), credentials)

    def client(self) -> Client:
        """Of the public listener."""
        return Client(self.edge.public, tls=trusting(self.folder / "public" / "ca.crt"))


@asynccontextmanager
async def meshed(folder: Path, *more: Authority) -> AsyncIterator[Mesh]:
    """Everybody trusts one authority, and `more`."""
    authority = Authority()
    trusted = b"".join(each.trusted for each in (authority, *more))
    seen: list[dict[str, str]] = []

    async def handler(request: Any, context: Any) -> Any:
        seen.append(dict(context.invocation_metadata()))
        return await took_in(request, context)

    mesh = Mesh(None, folder, authority, trusted, seen)  # type: ignore[arg-type]
    mesh.issue(authority)
    write_sds(folder / "sds", public=folder / "public", mesh=folder / "edge")
    files = {
        "tls_cert_file": folder / "gateway" / "tls.crt",
        "tls_key_file": folder / "gateway" / "tls.key",
        "tls_ca_file": folder / "gateway" / "ca.crt",
    }
    limits = {"rate_per_s": 1_000_000, "rate_burst": 1_000_000}
    behind = authority.issue("eta", trusted=trusted).mount(folder / "eta")
    async with gateway({"ReportGps": handler}, behind=behind, **files, **limits) as rig:
        ports = {"gateway": rig.gateway.public.port, "eta": rig.eta.port}
        addresses = {name: [f"127.0.0.1:{port}"] for name, port in ports.items()}
        tls = {"tls": True, "mesh_tls": True, "sds": folder / "sds"}
        async with running_edge(folder, addresses, **tls) as mesh.edge, asyncio.timeout(HANG_S):
            for name, port in ports.items():
                await mesh.edge.until_hosts(name, **{f"p{port}": "healthy"})
            yield mesh


async def test_a_task_goes_through_three_handshakes(tmp_path: Path) -> None:
    async with meshed(tmp_path) as mesh:
        client = mesh.client()
        assert (await client.task("report_gps", GPS)).status == 200
        await client.close()


async def test_a_caller_is_whom_his_certificate_names_and_no_operator(tmp_path: Path) -> None:
    async with meshed(tmp_path) as mesh, mesh.channel(mesh.authority) as channel:
        spoofed = ((principal.TENANT_KEY, "other"), (principal.SCOPES_KEY, "admin"))
        await EtaServiceStub(channel).ReportGps(FIX, timeout=10, metadata=spoofed)
        [metadata] = mesh.seen
        assert metadata[principal.CALLER_KEY] == FOLDER + "caller"
        assert metadata[principal.TENANT_KEY] == principal.DEFAULT_TENANT
        assert metadata[principal.SCOPES_KEY] == "none"


async def test_a_caller_without_a_certificate_needs_a_key(tmp_path: Path) -> None:
    async with meshed(tmp_path) as mesh, mesh.channel() as channel:
        stub = EtaServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ReportGps(FIX, timeout=10)
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await stub.ReportGps(FIX, timeout=10, metadata=BY_KEY)
        assert len(mesh.seen) == 1


@pytest.mark.parametrize(
    "uris",
    [
        (FOLDER.replace("/waymesh/", "/other/") + "eta",),
        (FOLDER.replace("waymesh.test", "elsewhere.test") + "eta",),
        (FOLDER + "eta/more",),
        (FOLDER + "eta", "spiffe://elsewhere.test/eta"),
    ],
    ids=["other-folder", "other-domain", "below", "two"],
)
async def test_a_name_that_is_none_of_the_mesh_needs_a_key_whoever_signed_it(
    tmp_path: Path, uris: tuple[str, ...]
) -> None:
    async with meshed(tmp_path) as mesh, mesh.channel(mesh.authority, uris=uris) as channel:
        stub = EtaServiceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.ReportGps(FIX, timeout=10)
        assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await stub.ReportGps(FIX, timeout=10, metadata=BY_KEY)
        assert len(mesh.seen) == 1


async def test_a_certificate_of_somebody_else_gets_no_further_even_with_a_key(tmp_path: Path) -> None:
    async with meshed(tmp_path) as mesh, mesh.channel(Authority("theirs")) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await EtaServiceStub(channel).ReportGps(FIX, timeout=10, metadata=BY_KEY)
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert mesh.seen == []


@pytest.mark.parametrize(
    ("offered", "chosen"), [(["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1"), ([], None)]
)
async def test_clients_get_the_newest_http_that_they_know(
    tmp_path: Path, offered: Sequence[str], chosen: str | None
) -> None:
    async with meshed(tmp_path) as mesh:
        context = trusting(tmp_path / "public" / "ca.crt", alpn=offered)
        _, writer = await asyncio.open_connection(
            "127.0.0.1", mesh.edge.public, ssl=context, server_hostname="localhost"
        )
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == chosen
        writer.close()


async def test_old_tls_is_refused(tmp_path: Path) -> None:
    async with meshed(tmp_path) as mesh:
        context = trusting(tmp_path / "public" / "ca.crt")
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await asyncio.open_connection(
                "127.0.0.1", mesh.edge.public, ssl=context, server_hostname="localhost"
            )


async def test_all_certificates_and_their_authority_change_without_a_failed_request(tmp_path: Path) -> None:
    successor = Authority("successor")
    async with meshed(tmp_path, successor) as mesh:
        stop = asyncio.Event()
        statuses: list[int] = []
        serials: set[str] = set()

        async def ask() -> None:
            while not stop.is_set():
                client = mesh.client()  # a handshake for each three requests
                statuses.extend([(await client.task("report_gps", GPS)).status for _ in range(3)])
                _, writer = await client.connect()
                serials.add(writer.get_extra_info("peercert")["serialNumber"])
                await client.close()

        asking = [asyncio.create_task(ask()) for _ in range(3)]
        for authority in (mesh.authority, successor, successor):
            before = set(serials)
            mesh.issue(authority)
            while serials == before:
                await asyncio.sleep(0.01)
        more = len(statuses) + 100
        while len(statuses) < more:
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*asking)
        assert set(statuses) == {200}
        assert len(serials) >= 3
