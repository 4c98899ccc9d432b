"""Grants each attempt what is left of the budget at hand, less a reserve for the caller's own answer."""

import time

from services.mesh import deadline
from services.mesh.chain.client.call import ClientCall, ClientLink


class DeadlineLink(ClientLink):
    """Sets `call.granted_s`; raises DeadlineExceeded before anything is sent if nothing is left."""

    name = "deadline"

    def before(self, call: ClientCall) -> None:
        if call.own_at is None:
            call.granted_s = deadline.grant(None)
        else:
            own_s = call.own_at - time.monotonic()
            call.granted_s = deadline.grant(own_s, of_s=call.own_at - call.started)
        call.attempts += 1
        if call.attempts == 1:
            call.budget_s = call.granted_s
