"""Passes the request id at hand on, or makes one where a call does not come from a request."""

from services.mesh import logs
from services.mesh.chain.client.call import ClientCall, ClientLink
from services.mesh.request_id import KEY, new_request_id


class RequestIdLink(ClientLink):
    """Adds `x-request-id`, to the span too."""

    name = "request_id"

    def before(self, call: ClientCall) -> None:
        request_id = logs.request_id.get() or new_request_id()
        call.metadata.append((KEY, request_id))
        if call.span is not None:
            call.span.attributes["waymesh.request_id"] = request_id
