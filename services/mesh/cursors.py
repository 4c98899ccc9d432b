"""What a caller is told whose cursor or page token cannot be followed: one rule for every service.

What no answer of ours can have held is INVALID_ARGUMENT, whatever is stored. What is ours but lies outside of
what is stored is OUT_OF_RANGE: older than what is kept, or ahead of it, as one from before a store was lost.
To go on from there as if nothing were missing would hide a gap. Either way, an empty one starts anew, and the
violation says so, too: who shows violations by field shows nothing else.
"""

from typing import Final

from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_CURSOR_INVALID

from services.mesh.errors import FieldViolation, InvalidArgument, OutOfRange

_REMEDY: Final = "leave it empty to start anew"


def not_ours(token: str, field: str = "cursor", *, to: str = "") -> InvalidArgument:
    """The error for what no answer gave; `to` says to what, if it must be the answer to a certain request."""
    gave = f"gave to {to}" if to else "gave"
    return InvalidArgument(
        f"{field} is not one of ours; {_REMEDY}",
        reason=ERROR_REASON_CURSOR_INVALID,
        metadata={"cursor": token},
        violations=(FieldViolation(field, f"is not one that an earlier answer {gave}; {_REMEDY}"),),
    )


def not_kept(token: str, field: str = "cursor") -> OutOfRange:
    """The error for a place that is not stored any more, or not yet."""
    return OutOfRange(
        f"{field} is too old, or ahead of what is stored; {_REMEDY}",
        reason=ERROR_REASON_CURSOR_INVALID,
        metadata={"cursor": token},
        violations=(FieldViolation(field, f"lies outside of what is stored; {_REMEDY}"),),
    )
