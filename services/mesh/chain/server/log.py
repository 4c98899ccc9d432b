"""One line per call that failed, and per call at level DEBUG."""

import logging
import time
from typing import Final

import grpc

from services.mesh.chain.server.call import ServerCall, ServerLink

_log = logging.getLogger("services.mesh.calls")

# Whose fault it is decides how loud the line is; codes that are missing here are the caller's.
_LEVEL: Final = {
    grpc.StatusCode.OK: logging.DEBUG,
    grpc.StatusCode.UNKNOWN: logging.ERROR,
    grpc.StatusCode.INTERNAL: logging.ERROR,
    grpc.StatusCode.DATA_LOSS: logging.ERROR,
    grpc.StatusCode.UNAVAILABLE: logging.WARNING,
    grpc.StatusCode.DEADLINE_EXCEEDED: logging.WARNING,
    grpc.StatusCode.RESOURCE_EXHAUSTED: logging.WARNING,
}


class LogLink(ServerLink):
    """Method, code, reason and time; never a request or a response."""

    name = "log"

    def after(self, call: ServerCall, error: BaseException | None) -> BaseException | None:
        level = _LEVEL.get(call.code, logging.INFO)
        if _log.isEnabledFor(level):
            fields = {"method": call.method.path, "code": call.code.name}
            reason = getattr(error, "reason_name", "")
            if reason:
                fields["reason"] = reason
            _log.log(
                level,
                "%s: %s",
                call.method.name,
                call.code.name if error is None else f"{call.code.name} {error}".rstrip(),
                extra={"duration_ms": round((time.monotonic() - call.started) * 1000, 3), "fields": fields},
            )
        return error
