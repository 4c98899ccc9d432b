"""Keeps what is for operators from everybody else, and says in the log who did it."""

import logging

from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_SCOPE_MISSING

from services.mesh import principal
from services.mesh.chain.server.call import ServerCall, ServerLink
from services.mesh.errors import PermissionDenied

_log = logging.getLogger("waymesh.audit")


class ScopeLink(ServerLink):
    """Of methods whose task is `admin`: a call on behalf of an API key needs the word of the edge for it.

    A call without a key comes from within the mesh, or from an operator who may reach the port at all.
    """

    name = "scope"

    def before(self, call: ServerCall) -> None:
        if not call.method.admin:
            return
        whom = principal.current()
        allowed = whom.admin or not whom.key
        # What a mesh tells itself is no news; who asked through the edge is, and who was refused.
        _log.log(
            logging.INFO if whom.key else logging.DEBUG,
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
