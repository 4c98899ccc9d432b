"""Keeps what is for operators from everybody else, and says in the log who did it."""

import logging

from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_SCOPE_MISSING

from services.mesh import principal
from services.mesh.chain.server.call import ServerCall, ServerLink
from services.mesh.errors import PermissionDenied
from services.mesh.tls import callers, peer

_log = logging.getLogger("waymesh.audit")


class ScopeLink(ServerLink):
    """Of methods whose task is `admin`: a call on behalf of an API key needs the word of the edge for it.

    A call without a key is one of the mesh itself or of an operator: by its certificate or, where connections
    are plain, because nobody else reaches a port on loopback.
    """

    name = "scope"

    def before(self, call: ServerCall) -> None:
        if not call.method.admin:
            return
        whom = principal.current()
        caller = peer.current()
        of_its_own = not whom.key and (caller is None or caller.name in callers.OF_THEIR_OWN)
        allowed = whom.admin or of_its_own
        # What a mesh tells itself is no news; who asked through the edge is, and who was refused.
        _log.log(
            logging.DEBUG if of_its_own else logging.INFO,
            "%s: %s",
            call.method.name,
            "allowed" if allowed else "refused",
            extra={
                "fields": {
                    "tenant": whom.tenant,
                    "key_id": whom.key,
                    "caller": whom.name,
                    "method": call.method.path,
                }
            },
        )
        if not allowed:
            raise PermissionDenied(
                f"{call.method.name} is for operators: the key needs the scope {principal.ADMIN}",
                reason=ERROR_REASON_SCOPE_MISSING,
                metadata={"task": call.method.name, "scope": principal.ADMIN},
            )
