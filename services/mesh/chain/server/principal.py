"""Takes over for whom a call is made, so that the handler and the calls it makes act for the same."""

from services.mesh import principal
from services.mesh.chain.server.call import ServerCall, ServerLink


class PrincipalLink(ServerLink):
    """Sets the context variable of the principal."""

    name = "principal"

    def before(self, call: ServerCall) -> None:
        principal.set_current(principal.of_metadata(call.metadata))
