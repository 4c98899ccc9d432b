"""Tells the other service for whom it is called."""

from services.mesh import principal
from services.mesh.chain.client.call import ClientCall, ClientLink


class PrincipalLink(ClientLink):
    """Adds the headers of the principal at hand; none for the default one."""

    name = "principal"

    def before(self, call: ClientCall) -> None:
        for pair in principal.current().headers:
            call.metadata.append(pair)
