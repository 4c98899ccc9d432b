"""Which failures pass by themselves, and what a failure of the store is to a caller."""

from typing import Final

from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_STORE_UNAVAILABLE

from services.mesh.errors import (
    DEFAULT_RETRY_AFTER_S,
    Aborted,
    DeadlineExceeded,
    ResourceExhausted,
    Unavailable,
    translate,
)

# A peer or a limit of ours, not the work itself.
_PASSING: Final = (Unavailable, DeadlineExceeded, ResourceExhausted, Aborted)


def is_transient(error: BaseException) -> bool:
    """Whether the same again may succeed without anybody's doing.

    True for lost and refused connections, a server that starts or stops, contention between transactions,
    and what a peer answers when it is away, late or full.
    """
    return isinstance(error, Exception) and isinstance(translate(error), _PASSING)


def unavailable(error: BaseException) -> Unavailable:
    """What a caller is told about a transient failure; nothing of the original's text."""
    told = translate(error)
    if isinstance(told, Unavailable):
        return told
    return Unavailable(
        "the store did not answer",
        reason=ERROR_REASON_STORE_UNAVAILABLE,
        retry_after_s=DEFAULT_RETRY_AFTER_S,
    )
