"""Makes typed errors of what grpc raises."""

import logging
import re
import time
from typing import Final

import grpc
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_PEER_NOT_ALLOWED

from services.mesh import errors
from services.mesh.chain.client.call import ClientCall, ClientLink

_log = logging.getLogger(__name__)

_HANDSHAKE: Final = re.compile(r"handshake failed|Hostname Verification|by TLS", re.IGNORECASE)
_TELL_AGAIN_S: Final = 60.0


class ErrorsLink(ClientLink):
    """AioRpcError becomes the subclass of MeshError for its code; a cancellation passes as it is.

    Headers of ours that cannot be sent fail here and not at the target. What the channels then raise is not
    one thing, and INTERNAL, which one of them says, a broken target says too; so the headers are asked.
    """

    name = "errors"

    def __init__(self) -> None:
        # Target → when it was told last that its certificate, or ours, is not taken.
        self._told: dict[str, float] = {}

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
        if typed.reason == ERROR_REASON_PEER_NOT_ALLOWED:
            # Whoever asked this process is not to blame for the certificate that it shows.
            _log.error("%s at %s: %s", call.method.path, call.target, typed)
            return _of_peer(typed, call.method.target_name)
        if not typed.from_peer:
            self._tell(call, error)
        return typed

    def _tell(self, call: ClientCall, error: Exception) -> None:
        """The transport's own words name addresses: for the log, not for callers.

        A certificate that is not taken, here or there, is no passing trouble: told loudly now and then.
        """
        level = logging.DEBUG
        if isinstance(error, grpc.aio.AioRpcError) and _HANDSHAKE.search(error.details() or ""):
            now = time.monotonic()
            if now - self._told.get(call.target, -_TELL_AGAIN_S) >= _TELL_AGAIN_S:
                self._told[call.target] = now
                level = logging.WARNING
        if _log.isEnabledFor(level):
            _log.log(level, "%s at %s: %s", call.method.path, call.target, error)


def _of_peer(error: errors.MeshError, target: str) -> errors.MeshError:
    typed = errors.Internal(
        f"{target} is not called by this service",
        reason=ERROR_REASON_PEER_NOT_ALLOWED,
        metadata=error.metadata,
    )
    typed.from_peer = True
    return typed
