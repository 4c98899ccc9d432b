"""The one grpc interceptor of the server: runs the links around every handler."""

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextvars import ContextVar
from typing import Any, Final

import grpc

from services.mesh import errors
from services.mesh.chain import order
from services.mesh.chain.around import Around
from services.mesh.chain.method import Method, describe_method
from services.mesh.chain.server.admission import AdmissionLink
from services.mesh.chain.server.call import Outgoing, ServerCall, ServerLink
from services.mesh.chain.server.deadline import DeadlineLink
from services.mesh.chain.server.errors import ErrorsLink
from services.mesh.chain.server.log import LogLink
from services.mesh.chain.server.metrics import MetricsLink
from services.mesh.chain.server.peer import PeerLink
from services.mesh.chain.server.principal import PrincipalLink
from services.mesh.chain.server.request_id import RequestIdLink
from services.mesh.chain.server.scope import ScopeLink
from services.mesh.chain.server.stream import ResponseStream
from services.mesh.chain.server.tenancy import TenancyLink
from services.mesh.chain.server.trace import TraceLink
from services.mesh.chain.server.validation import MoreFaults, ValidationLink, readable
from services.mesh.telemetry import Telemetry
from services.mesh.tls.peer import Peers

Handler = Callable[[Any, Any], Awaitable[Any]]

# gRPC's own services: probes and reflection are not calls of the mesh.
_HEALTH: Final = "/grpc.health."
_REFLECTION: Final = "/grpc.reflection."

_metadata: ContextVar[dict[str, str | bytes]] = ContextVar("waymesh_call_metadata")


def server_links(
    telemetry: Telemetry,
    more: MoreFaults | None = None,
    *,
    peers: Peers | None = None,
    qualified: bool = False,
    as_they_are: Collection[str] = (),
) -> list[ServerLink]:
    """The links of a server, outermost first; `more` as `validation.check` has it.

    `peers`: who may call, where connections tell who does. `qualified`: handlers know things by qualified
    ids; `as_they_are` as TenancyLink has it.
    """
    links: list[ServerLink] = [
        RequestIdLink(),
        PeerLink(peers),
        PrincipalLink(),
        TraceLink(telemetry),
        MetricsLink(telemetry),
        LogLink(),
        ErrorsLink(),
        AdmissionLink(),
        ScopeLink(),
        DeadlineLink(),
        ValidationLink({} if more is None else more),
    ]
    if qualified:
        links.append(TenancyLink(as_they_are))
    expected = order.QUALIFIED if qualified else order.SERVER
    order.require([link.name for link in links], expected, order.SERVER_REASONS)
    return links


class ServerInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each method's handler once and hands the wrapped one out from then on."""

    def __init__(self, links: Sequence[ServerLink], peers: Peers | None = None) -> None:
        """With `peers`, reflection is for those who may call; health for every certificate of the mesh."""
        self._peers = peers
        self._links: Around[ServerCall] = Around(links, ServerLink)
        self._wrapped: dict[str, Any] = {}
        # Response streams that are under way; they may have no end of their own.
        self._streams: set[ResponseStream] = set()

    def end_streams(self, finite: Collection[str] = ()) -> None:
        """Ends response streams with UNAVAILABLE (DRAINING): readers resume from their cursor elsewhere.

        Those of the paths in `finite` end by themselves before long, as unary calls do.
        """
        for stream in list(self._streams):
            if stream.path not in finite:
                stream.end()

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        # The handler runs in the same context; asking grpc again would decode it all again.
        _metadata.set(dict(handler_call_details.invocation_metadata or ()))
        path = handler_call_details.method
        if isinstance(path, bytes):
            path = path.decode()
        wrapped = self._wrapped.get(path)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:  # not served here; grpc answers UNIMPLEMENTED
                return None
            wrapped = self._wrap(path, handler)
            self._wrapped[path] = wrapped
        return wrapped

    def _wrap(self, path: str, handler: Any) -> Any:
        method = describe_method(
            path, request_streaming=handler.request_streaming, response_streaming=handler.response_streaming
        )
        if handler.request_streaming:
            bare = handler.stream_stream if handler.response_streaming else handler.stream_unary
        else:
            bare = handler.unary_stream if handler.response_streaming else handler.unary_unary
        deserializer = handler.request_deserializer
        behaviour: Handler
        if path.startswith((_HEALTH, _REFLECTION)):
            behaviour = self._streamed(path, bare) if handler.response_streaming else bare
            behaviour = _plain(behaviour, self._peers if path.startswith(_REFLECTION) else None)
        else:
            behaviour = self._around(method, bare)
            deserializer = readable(deserializer) if deserializer is not None else None
        factory: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        return factory(
            behaviour,
            request_deserializer=deserializer,
            response_serializer=handler.response_serializer,
        )

    def _around(self, method: Method, handler: Any) -> Handler:
        befores, afters = self._links.befores, self._links.afters
        path, streaming = method.path, method.response_streaming
        monotonic = time.monotonic

        async def behaviour(request: Any, context: Any) -> Any:
            call = ServerCall(method, request, context, _metadata.get(), monotonic())
            entered = 0
            response = None
            error: BaseException | None = None
            try:
                for before in befores:
                    before(call)
                    entered += 1
                if streaming:
                    await self._stream(path, handler(call.request, context), context, call.outgoing)
                else:
                    response = await handler(call.request, context)
                    if call.outgoing is not None:
                        response = call.outgoing(response)
                    call.response = response
            except BaseException as raised:
                error = raised
            for after in afters[entered]:
                error = after(call, error)
            if error is None:
                return response
            try:
                if isinstance(error, errors.MeshError):
                    await _abort(context, error)
                raise error
            finally:
                del error, call  # the traceback holds this frame; without this, each error is a cycle

        return behaviour

    def _streamed(self, path: str, bare: Any) -> Handler:
        async def behaviour(request: Any, context: Any) -> None:
            await self._stream(path, bare(request, context), context, None)

        return behaviour

    async def _stream(self, path: str, responses: Any, context: Any, outgoing: Outgoing | None) -> None:
        stream = ResponseStream(path, context, outgoing)
        self._streams.add(stream)
        try:
            await stream.run(responses)
        finally:
            self._streams.discard(stream)


def _plain(handler: Handler, peers: Peers | None = None) -> Handler:
    """A handler without links; with `peers`, for those who may call."""

    async def behaviour(request: Any, context: Any) -> Any:
        try:
            refusal = None if peers is None else peers.of_call(context.auth_context()).refusal()
            if refusal is not None:
                raise refusal
            return await handler(request, context)
        except errors.MeshError as error:
            await _abort(context, error)

    return behaviour


async def _abort(context: Any, error: errors.MeshError) -> None:
    """Sends the status and raises AbortError, as grpc asks for."""
    await context.abort(error.code, error.message, ((errors.STATUS_DETAILS_KEY, errors.to_trailer(error)),))
