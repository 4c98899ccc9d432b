"""Makes typed errors of what grpc raises."""

import logging

import grpc

from services.mesh import errors
from services.mesh.chain.client.call import ClientCall, ClientLink

_log = logging.getLogger(__name__)


class ErrorsLink(ClientLink):
    """AioRpcError becomes the subclass of MeshError for its code; a cancellation passes as it is.

    Headers of ours that cannot be sent fail here and not at the target. What the channels then raise is not
    one thing, and INTERNAL, which one of them says, a broken target says too; so the headers are asked.
    """

    name = "errors"

    def after(self, call: ClientCall, error: BaseException | None) -> BaseException | None:
        if not isinstance(error, Exception) or isinstance(error, errors.MeshError):
            return error
        typed = None
        if isinstance(error, grpc.aio.AioRpcError):
            method = call.method
            typed = errors.from_rpc_error(error, method.target_name, method.path, call.budget_s)
        if typed is None or (typed.code is grpc.StatusCode.INTERNAL and not typed.from_peer):
            unsendable = call.metadata.unsendable()
            if unsendable is not None:
                _log.error("%s was not called: its header %r cannot be sent", call.method.path, unsendable)
                return errors.internal()
        if typed is None:
            return error
        if not typed.from_peer and _log.isEnabledFor(logging.DEBUG):
            # The transport's own words name addresses: for the log, not for callers.
            _log.debug("%s at %s: %s", call.method.path, call.target, error)
        return typed
