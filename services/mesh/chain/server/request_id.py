"""Takes over the caller's request id, or makes one, so that every log line and call below carries it."""

import os
import re
from typing import Final

from services.mesh import logs
from services.mesh.chain.server.call import ServerCall, ServerLink

KEY: Final = "x-request-id"
# What is let through from outside: it ends up in logs and headers.
_VALID: Final = re.compile(r"[\x21-\x7e]{1,128}")


def new_request_id() -> str:
    """A random id, in the form of a UUID."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class RequestIdLink(ServerLink):
    """Sets `call.request_id` and the context variable of the logs."""

    name = "request_id"

    def before(self, call: ServerCall) -> None:
        given = call.metadata.get(KEY)
        if not isinstance(given, str) or _VALID.fullmatch(given) is None:
            given = new_request_id()
        call.request_id = given
        logs.request_id.set(given)
