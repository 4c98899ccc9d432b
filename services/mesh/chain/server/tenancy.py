"""Qualifies the ids in requests and makes those in answers plain: handlers know qualified ones alone."""

from collections.abc import AsyncIterable, AsyncIterator, Collection
from typing import Any

from google.protobuf.message import Message

from services.mesh import principal, tenancy
from services.mesh.chain.server.call import ServerCall, ServerLink
from services.mesh.errors import MeshError


class TenancyLink(ServerLink):
    """Both ways of unary calls and of streams, and what errors say.

    An id of another tenant in an answer is a fault: the caller is told of an internal error and nothing else.
    """

    name = "tenancy"

    def __init__(self, as_they_are: Collection[str] = ()) -> None:
        """`as_they_are`: paths of RPCs whose handlers take requests with plain ids."""
        self._as_they_are = frozenset(as_they_are)

    def before(self, call: ServerCall) -> None:
        tenant = principal.current().tenant
        if tenant == principal.MESH_TENANT:
            return
        call.outgoing = _Plain(tenant)
        if call.method.path in self._as_they_are:
            return
        if call.method.request_streaming:
            call.request = _qualified(call.request, tenant)
        elif isinstance(call.request, Message):
            tenancy.qualify_message(call.request, tenant)

    def after(self, call: ServerCall, error: BaseException | None) -> BaseException | None:
        if isinstance(error, MeshError):
            return tenancy.plain_error(error, principal.current().tenant)
        return error


class _Plain:
    """What a tenant is told of a response."""

    __slots__ = ("_tenant",)

    def __init__(self, tenant: str) -> None:
        self._tenant = tenant

    def __call__(self, response: Any) -> Any:
        return tenancy.plain_message(response, self._tenant) if isinstance(response, Message) else response


async def _qualified(requests: AsyncIterable[Any], tenant: str) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, Message):
            tenancy.qualify_message(request, tenant)
        yield request
