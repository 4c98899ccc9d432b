"""Takes over the caller's request id, or makes one, so that every log line and call below carries it."""

from services.mesh import logs
from services.mesh.chain.server.call import ServerCall, ServerLink
from services.mesh.request_id import KEY, is_valid, new_request_id


class RequestIdLink(ServerLink):
    """Sets `call.request_id` and the context variable of the logs."""

    name = "request_id"

    def before(self, call: ServerCall) -> None:
        given = call.metadata.get(KEY)
        call.request_id = given if is_valid(given) else new_request_id()
        logs.request_id.set(call.request_id)
