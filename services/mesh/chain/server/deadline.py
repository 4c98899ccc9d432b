"""Opens the caller's budget around the handler.

That a handler does not outlive it is seen to by grpc core, which cancels the handler's task when the call's
deadline passes even if the caller is frozen (tests/contract/test_grpc_traps.py); a timer of ours would cost
every call as much as the rest of this chain.
"""

from services.mesh import deadline
from services.mesh.chain.server.call import ServerCall, ServerLink


class DeadlineLink(ServerLink):
    """Sets `call.deadline` and the context variable that the client's chain reads."""

    name = "deadline"

    def before(self, call: ServerCall) -> None:
        left_s: float | None = call.context.time_remaining()
        if left_s is None:
            deadline.begin(None)
            return
        call.deadline = call.started + left_s
        deadline.begin(call.deadline, left_s)
        if left_s <= 0:
            raise deadline.passed()
