"""Refuses who does not call this service (`tls/callers.py`)."""

from services.mesh.chain.server.call import ServerCall, ServerLink
from services.mesh.tls import peer


class AdmissionLink(ServerLink):
    """Where connections are plain, everybody may call."""

    name = "admission"

    def before(self, call: ServerCall) -> None:
        found = peer.current()
        refusal = None if found is None else found.refusal()
        if refusal is not None:
            raise refusal
