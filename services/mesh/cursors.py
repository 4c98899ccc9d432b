"""What a caller is told whose cursor or page token cannot be followed: one rule for every service.

What no answer of ours can have held is INVALID_ARGUMENT, whatever is stored. What is ours but lies outside of
what is stored is OUT_OF_RANGE: older than what is kept, or ahead of it, as one from before a store was lost.
To go on from there as if nothing were missing would hide a gap. Either way, an empty one starts anew.
"""

from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_CURSOR_INVALID

from services.mesh.errors import FieldViolation, InvalidArgument, OutOfRange


def not_ours(token: str, field: str = "cursor") -> InvalidArgument:
    """The error for what no answer gave."""
    return InvalidArgument(
        f"{field} is not one of ours; leave it empty to start anew",
        reason=ERROR_REASON_CURSOR_INVALID,
        metadata={"cursor": token},
        violations=(FieldViolation(field, "is not one that an earlier answer gave"),),
    )


def not_kept(token: str, field: str = "cursor") -> OutOfRange:
    """The error for a place that is not stored any more, or not yet."""
    return OutOfRange(
        f"{field} is too old, or ahead of what is stored; leave it empty to start anew",
        reason=ERROR_REASON_CURSOR_INVALID,
        metadata={"cursor": token},
        violations=(FieldViolation(field, "lies outside of what is stored"),),
    )
