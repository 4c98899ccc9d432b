"""Makes of whatever a handler raised the error that the caller may see."""

import asyncio
import logging
import time

import grpc

from services.mesh import deadline, errors
from services.mesh.chain.server.call import ServerCall, ServerLink

_log = logging.getLogger(__name__)

_EARLY_S = 0.005


class ErrorsLink(ServerLink):
    """Sets `call.code`. The text of a foreign exception is logged here and goes no further."""

    name = "errors"

    def after(self, call: ServerCall, error: BaseException | None) -> BaseException | None:
        if error is None:
            code = call.context.code()
            if code:  # the handler chose set_code() over raising; 0 and None mean OK
                call.code = code if isinstance(code, grpc.StatusCode) else errors.status_code_of_number(code)
            return None
        if isinstance(error, errors.MeshError):
            call.code = error.code
            return error
        if isinstance(error, grpc.aio.AbortError):
            # The handler called context.abort(): the status is on its way, and only this very exception
            # may come out of the handler.
            code = call.context.code()
            call.code = (
                code if isinstance(code, grpc.StatusCode) else errors.status_code_of_number(int(code or 2))
            )
            return error
        # Core keeps time in milliseconds and may be that much early.
        passed = call.deadline is not None and call.deadline - time.monotonic() < _EARLY_S
        if isinstance(error, asyncio.CancelledError) and _is_from_outside():
            call.code = grpc.StatusCode.DEADLINE_EXCEEDED if passed else grpc.StatusCode.CANCELLED
            return error
        if not isinstance(error, Exception | asyncio.CancelledError):  # the process is asked to end
            call.code = grpc.StatusCode.UNAVAILABLE
            return error
        typed: errors.MeshError
        if isinstance(error, TimeoutError) and passed:
            typed = deadline.passed(call.budget_s)
        else:
            # A cancellation that nobody asked for is a fault of the handler: it awaited a cancelled task.
            cancelled = isinstance(error, asyncio.CancelledError)
            typed = errors.internal() if cancelled else errors.translate(error)
            _log.log(
                logging.ERROR if isinstance(typed, errors.Internal) else logging.WARNING,
                "%s failed with an exception that callers see as %s",
                call.method.path,
                typed.code.name,
                exc_info=error,
            )
        call.code = typed.code
        return typed


def _is_from_outside() -> bool:
    """Whether somebody cancelled the call's own task: the caller, the deadline, or the end of the server."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
