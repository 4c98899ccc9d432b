"""Says to Envoy who may call an RPC, and as whom: its external authorization, in the form that speaks HTTP.

Envoy asks `/authorize` + the path of the call, with the caller's key. 200 comes with the headers that the
call is to carry, each of them every time, so that nothing a caller has sent is left in its place. Everything
else is the answer for the caller, as gRPC has it: Envoy makes a trailers-only response of a refusal, and what
it is told of `grpc-status`, `grpc-message` and details it leaves as it is.

The content type must not be among the headers that Envoy passes on: while we are away, Envoy answers itself
to a request that it takes for gRPC, with status 200, which it would then take for our permission.
"""

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_METHOD_UNIMPLEMENTED

from services.gateway import faults
from services.gateway.authority import Authority
from services.gateway.edge import Edge
from services.gateway.exchange import Answer, Exchange, Handler
from services.gateway.rpcs import Rpc
from services.mesh import errors
from services.mesh.errors import MeshError, Unimplemented
from services.mesh.principal import SCOPES_KEY, TENANT_KEY, Principal
from services.mesh.wire.failures import to_base64

PREFIX: Final = "/authorize"
_UNDER: Final = PREFIX + "/"
# For keys without the right of an operator, and in calls that need none.
_NO_SCOPES: Final = "none"
# Envoy takes what is 500 or more for a fault of ours, and answers in its own words. The caller's status is
# that of gRPC in any case; this one only has to be a refusal.
_REFUSED: Final = 429


class Authorize:
    """The RPCs of the contracts, by path. Health and reflection are not among them."""

    def __init__(self, edge: Edge, authority: Authority, rpcs: Mapping[str, Rpc]) -> None:
        self._edge = edge
        self._authority = authority
        self._rpcs = {path.encode(): rpc for path, rpc in rpcs.items()}
        self._handlers: Mapping[str, Handler] = {"POST": self.handle, "GET": self.handle}

    def find(self, exchange: Exchange) -> Mapping[str, Handler] | None:
        """What the path takes; None if it is none of these. Sets `exchange.template`."""
        if not exchange.path.startswith(_UNDER):
            return None
        exchange.template = PREFIX
        exchange.grpc = True
        return self._handlers

    async def handle(self, exchange: Exchange) -> Answer:
        """Raises MeshErrors. A path counts as it was sent: nobody decodes it on its further way.

        With a query it is none of an RPC, and a permission for it is neither given nor written down.
        """
        client = await self._edge.authenticate(exchange)
        self._edge.admit()
        path = exchange.raw_path.removeprefix(PREFIX.encode())
        rpc = self._rpcs.get(path)
        if rpc is None or exchange.query:
            raise _not_served(path.decode("ascii", "replace"))
        exchange.task = rpc.scope
        exchange.service = rpc.owner
        if rpc.admin or not client.scopes.allows(rpc.scope):
            await self._authority.permit(client, rpc.scope, admin=rpc.admin, request_id=exchange.request_id)
        whom = client.principal
        if rpc.admin:
            await self._authority.begin(client, rpc.scope, "", exchange.request_id)
            whom = client.operator
        return Answer(200, b"", headers=told(whom))


def told(whom: Principal) -> list[tuple[bytes, bytes]]:
    """What a service is to be told of the caller: each of the four, always."""
    said = {TENANT_KEY: whom.tenant, SCOPES_KEY: _NO_SCOPES, **dict(whom.headers)}
    return [(name.encode(), value.encode()) for name, value in said.items()]


def refusal(error: MeshError) -> Answer:
    """The same as a service would answer to a client of gRPC."""
    status = faults.status_of(error)
    headers = [
        *faults.headers_of(error, status),
        (b"grpc-status", str(error.code.value[0]).encode()),
        (b"grpc-message", quote(error.message, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}").encode()),
        (errors.STATUS_DETAILS_KEY.encode(), to_base64(errors.to_trailer(error))),
    ]
    # With a body, Envoy would make the message of it.
    return Answer(status if status < 500 else _REFUSED, b"", headers=headers)


def _not_served(path: str) -> Unimplemented:
    return Unimplemented(
        "this RPC is not served", reason=ERROR_REASON_METHOD_UNIMPLEMENTED, metadata={"method": path[:200]}
    )
