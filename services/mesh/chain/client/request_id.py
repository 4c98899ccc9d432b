"""Passes the request id at hand on, or makes one where a call does not come from a request."""

from services.mesh import logs
from services.mesh.chain.client.call import ClientCall, ClientLink
from services.mesh.chain.server.request_id import KEY, new_request_id


class RequestIdLink(ClientLink):
    """Adds `x-request-id`."""

    name = "request_id"

    def before(self, call: ClientCall) -> None:
        call.metadata.append((KEY, logs.request_id.get() or new_request_id()))
