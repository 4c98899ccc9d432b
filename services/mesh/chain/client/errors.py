"""Makes typed errors of what grpc raises."""

import logging

import grpc

from services.mesh import errors
from services.mesh.chain.client.call import ClientCall, ClientLink

_log = logging.getLogger(__name__)


class ErrorsLink(ClientLink):
    """AioRpcError becomes the subclass of MeshError for its code; a cancellation passes as it is."""

    name = "errors"

    def after(self, call: ClientCall, error: BaseException | None) -> BaseException | None:
        if not isinstance(error, grpc.aio.AioRpcError):
            return error
        typed = errors.from_rpc_error(error, call.method.target_name)
        if not typed.from_peer and _log.isEnabledFor(logging.DEBUG):
            # The transport's own words name addresses: for the log, not for callers.
            _log.debug("%s at %s: %s %s", call.method.path, call.target, error.code(), error.details())
        return typed
