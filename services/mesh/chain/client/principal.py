"""Tells the other service for whom it is called."""

from services.mesh import principal
from services.mesh.chain.client.call import ClientCall, ClientLink


class PrincipalLink(ClientLink):
    """Adds the headers of the principal at hand; none for the default one."""

    name = "principal"

    def before(self, call: ClientCall) -> None:
        who = principal.current()
        if who is not principal.DEFAULT:
            for pair in principal.headers_of(who):
                call.metadata.append(pair)
