"""Who calls whom, and what for: the one table of it.

A server lets nobody else in, network policies open these ways and no others, and a test compares the table
with what the code calls.
"""

from typing import Final, NamedTuple

# Envoy before the mesh, and who looks after it by the command line and jobs: no services of the mesh.
EDGE: Final = "edge"
OPERATOR: Final = "operator"


class Call(NamedTuple):
    """`caller` may call any method of `service`, because it does."""

    caller: str
    service: str
    because: str


CALLS: Final = (
    Call("eta", "feedback", "tells outcomes and signals, reads deliveries to learn from"),
    Call("route", "eta", "asks for readiness, lateness and travel times"),
    Call("route", "feedback", "tells outcomes and signals"),
    Call("agents", "eta", "asks for what answers are made of"),
    Call("agents", "route", "asks for what answers are made of, and for plans"),
    Call("agents", "feedback", "tells outcomes and signals, reads outcomes and deliveries"),
    Call("gateway", "eta", "runs its tasks"),
    Call("gateway", "route", "runs its tasks"),
    Call("gateway", "feedback", "runs its tasks, tells signals"),
    Call("gateway", "agents", "runs its tasks"),
    Call(EDGE, "gateway", "passes on what clients ask by HTTP"),
    Call(EDGE, "eta", "passes on what clients ask by gRPC and gRPC-Web"),
    Call(EDGE, "route", "passes on what clients ask by gRPC and gRPC-Web"),
    Call(EDGE, "feedback", "passes on what clients ask by gRPC and gRPC-Web"),
    Call(EDGE, "agents", "passes on what clients ask by gRPC and gRPC-Web"),
    Call(OPERATOR, "eta", "asks how it is, replays recordings, shows a demonstration"),
    Call(OPERATOR, "route", "asks how it is, replays recordings, shows a demonstration"),
    Call(OPERATOR, "feedback", "asks how it is"),
    Call(OPERATOR, "agents", "asks how it is"),
    Call(OPERATOR, "gateway", "asks how it is, calls tasks by hand"),
)

SERVICES: Final = frozenset({"eta", "route", "feedback", "agents"})
"""They may act for the whole mesh, and for whom they were called."""
SPEAKS_FOR_OTHERS: Final = SERVICES | {"gateway", EDGE}
"""What they say of the tenant and the caller they act for is believed."""
OF_THEIR_OWN: Final = SERVICES | {"gateway", OPERATOR}
"""What is for operators alone they may call without an API key."""


def callers_of(service: str) -> frozenset[str]:
    """Who may call a service."""
    return frozenset(call.caller for call in CALLS if call.service == service)


def called_by(caller: str) -> frozenset[str]:
    """Whom somebody may call."""
    return frozenset(call.service for call in CALLS if call.caller == caller)
