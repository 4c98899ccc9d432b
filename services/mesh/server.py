"""A gRPC server of the mesh: the chain around every handler, health, reflection, an admin port, a drain."""

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any, Final, TypeVar, cast

import grpc
from google.protobuf.message import Message
from grpc_health.v1 import health, health_pb2_grpc  # type: ignore[import-untyped]
from grpc_reflection.v1alpha import reflection  # type: ignore[import-untyped]

from services.mesh import steering, transport
from services.mesh.admin import AdminServer
from services.mesh.chain.serve import ServerInterceptor, server_links
from services.mesh.errors import FieldViolation
from services.mesh.health import Health, Probe
from services.mesh.health_port import HealthPort, address
from services.mesh.telemetry import Telemetry
from services.mesh.tls.live import LiveTls
from services.mesh.tls.peer import Peers

Servicer = TypeVar("Servicer")

_log = logging.getLogger(__name__)

# How long calls under way may go on once new ones are refused, in seconds.
GRACE_S: Final = 10.0


class _Registrar:
    """What generated `add_…_to_server` functions talk to; it also notes the names of the services."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server: Any = server
        self.services: list[str] = []

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        self._server.add_generic_rpc_handlers(handlers)
        for handler in handlers:
            name = getattr(handler, "service_name", None)
            if callable(name) and name() not in self.services:
                self.services.append(name())

    def add_registered_method_handlers(self, service_name: str, handlers: Any) -> None:
        self._server.add_registered_method_handlers(service_name, handlers)


class GrpcServer:
    """One process's server. `port` and `admin_port` are the bound ones after `start`.

    Give port 0 for any free one; no admin port with None. `max_concurrent` calls at most are under way,
    more are refused at once with RESOURCE_EXHAUSTED.
    """

    def __init__(
        self,
        name: str,
        *,
        host: str,
        port: int,
        admin_port: int | None,
        telemetry: Telemetry,
        max_message_mib: int = 64,
        max_concurrent: int | None = None,
        grace_s: float = GRACE_S,
        finite_streams: Collection[str] = (),
        admin_host: str | None = None,
        health_port: int | None = None,
        tls: LiveTls | None = None,
        further_peers: Collection[str] = (),
        qualified: bool = False,
        as_they_are: Collection[str] = (),
    ) -> None:
        """`grace_s`: how long calls under way may go on when the server drains. `finite_streams`: paths of
        RPCs whose streams end by themselves within that time; others are ended at once.

        With `tls`, callers show a certificate of one of those who call this service, or of `further_peers`.
        Metrics and health are plain, at `admin_host` where that is another one.

        `qualified`: handlers know what belongs to tenants by qualified ids (`mesh.tenancy`), callers by plain
        ones; `as_they_are`: paths of RPCs whose handlers take requests with plain ids.
        """
        self.name = name
        self.port = port
        self.health = Health(telemetry)
        self._host = host
        self._telemetry = telemetry
        self._max_message_mib = max_message_mib
        self._max_concurrent = max_concurrent
        self._grace_s = grace_s
        self._finite_streams = frozenset(finite_streams)
        self._more: dict[type[Message], Callable[[Any], list[FieldViolation]]] = {}
        self.tls = tls
        peers = None if tls is None else Peers(tls.current.id, further_peers)
        links = server_links(telemetry, self._more, peers=peers, qualified=qualified, as_they_are=as_they_are)
        self._interceptor = ServerInterceptor(links, peers)
        self._servicers: list[tuple[Callable[[Any, Any], None], object]] = []
        self._server: grpc.aio.Server | None = None
        self._admin = (
            None
            if admin_port is None
            else AdminServer(admin_host or host, admin_port, telemetry=telemetry, health=self.health)
        )
        self._health_port = (
            None if health_port is None else HealthPort(admin_host or host, health_port, self.health.servicer)
        )

    @property
    def admin_port(self) -> int:
        """Bound admin port; 0 if there is none."""
        return 0 if self._admin is None else self._admin.port

    @property
    def health_port(self) -> int:
        """Bound port of the plain health service; 0 if there is none."""
        return 0 if self._health_port is None else self._health_port.port

    def add(self, register: Callable[[Servicer, grpc.aio.Server], None], servicer: Servicer) -> None:
        """Serves `servicer`; `register` is the generated `add_…Servicer_to_server`."""
        self._servicers.append((cast(Callable[[Any, Any], None], register), servicer))

    def tell_at_once(self, kind: type[Message], faults: Callable[[Any], list[FieldViolation]]) -> None:
        """What a handler refuses beyond the rules of the contract, told along with what breaks those."""
        self._more[kind] = faults

    def check(self, name: str, probe: Probe) -> None:
        """While `probe` raises, the server's health is NOT_SERVING."""
        self.health.add(name, probe)

    async def start(self) -> None:
        """Serves from now on. Raises OSError if a port is taken by another program."""
        server = grpc.aio.server(
            interceptors=[self._interceptor],
            options=transport.server_options(self._max_message_mib),
            maximum_concurrent_rpcs=self._max_concurrent,
        )
        registrar = _Registrar(server)
        for register, servicer in self._servicers:
            register(servicer, cast(grpc.aio.Server, registrar))
        names = list(registrar.services)
        health_pb2_grpc.add_HealthServicer_to_server(self.health.servicer, server)
        reflection.enable_server_reflection((*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        where = address(self._host, self.port)
        try:
            if self.tls is None:
                self.port = server.add_insecure_port(where)
            else:
                self.port = server.add_secure_port(where, self.tls.server_credentials())
        except RuntimeError as error:
            raise OSError(f"{self._host}:{self.port} cannot be bound") from error
        for plain in (self._admin, self._health_port):
            if plain is not None:
                await plain.start()
        await server.start()
        self._server = server
        await self.health.start(names)

    async def drain(self, wait_s: float = 0.0) -> None:
        """Says NOT_SERVING, serves on for `wait_s` while callers look elsewhere, then lets calls end.

        A connection that were still in the queue when the listener closes would be reset, and its client's
        calls refused until it tries again: new ones go to the successor that shares the port, if there is
        one.
        """
        await self.health.drain()
        if self._server is None:
            return
        steering.steer_port_away(self.port)
        await asyncio.sleep(max(wait_s, steering.SETTLE_S))
        self._interceptor.end_streams(self._finite_streams)
        await self._server.stop(self._grace_s)

    async def stop(self) -> None:
        """Ends at once what is still under way."""
        await self.health.stop()
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)
        for plain in (self._admin, self._health_port):
            if plain is not None:
                await plain.stop()
