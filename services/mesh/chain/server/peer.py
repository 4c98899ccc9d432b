"""Takes over who calls, by the certificate of the connection."""

from services.mesh.chain.server.call import ServerCall, ServerLink
from services.mesh.tls import peer
from services.mesh.tls.peer import Peers


class PeerLink(ServerLink):
    """Sets the context variable of the peer. Without `peers`, as where there is no TLS, nobody is known."""

    name = "peer"

    def __init__(self, peers: Peers | None) -> None:
        self._peers = peers

    def before(self, call: ServerCall) -> None:
        if self._peers is not None:
            peer.set_current(self._peers.of_call(call.context.auth_context()))
