"""Takes over for whom a call is made, so that the handler and the calls it makes act for the same."""

from services.mesh import principal
from services.mesh.chain.server.call import ServerCall, ServerLink
from services.mesh.errors import PermissionDenied
from services.mesh.tls import peer


class PrincipalLink(ServerLink):
    """Sets the context variable of the principal.

    Who speaks for nobody else, by its certificate, is not believed what it says of others. For all tenants at
    once only services of the mesh may call.
    """

    name = "principal"

    def before(self, call: ServerCall) -> None:
        caller = peer.current()
        if caller is not None and not caller.speaks_for_others:
            principal.set_current(principal.DEFAULT)
            return
        who = principal.of_metadata(call.metadata)
        if who.tenant == principal.MESH_TENANT and caller is not None and not caller.is_service:
            raise PermissionDenied("only services of the mesh act for all tenants")
        principal.set_current(who)
