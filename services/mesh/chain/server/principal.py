"""Takes over for whom a call is made, so that the handler and the calls it makes act for the same."""

from services.mesh import principal
from services.mesh.chain.server.call import ServerCall, ServerLink
from services.mesh.tls import peer


class PrincipalLink(ServerLink):
    """Sets the context variable of the principal.

    Who speaks for nobody else, by its certificate, is not believed what it says of others.
    """

    name = "principal"

    def before(self, call: ServerCall) -> None:
        caller = peer.current()
        if caller is not None and not caller.speaks_for_others:
            principal.set_current(principal.DEFAULT)
        else:
            principal.set_current(principal.of_metadata(call.metadata))
