"""Counters of fixes since a cursor. The cursor holds the counters as they stood, so nothing has to be
kept for it.
"""

from typing import Final

from waymesh.eta.v1.gps_stream_pb2 import FlagCount, GetGpsStatsResponse

from services.eta.fixes import FLAGS
from services.eta.store import Counts
from services.mesh import cursors

_PREFIX: Final = "gps"
_MAX: Final = 2**32 - 1


def since(cursor: str, totals: Counts) -> GetGpsStatsResponse:
    """What was counted between the cursor and the totals. Raises InvalidArgument for a cursor that
    is not one of ours, OutOfRange for one that is ahead of the totals.
    """
    now = _figures(totals)
    before = _read(cursor, len(now)) if cursor else [0] * len(now)
    counted = [new - old for new, old in zip(now, before, strict=True)]
    if min(counted) < 0:
        raise cursors.not_kept(cursor)
    fixes, duplicates, conflicts, predictions, *flags = (min(count, _MAX) for count in counted)
    return GetGpsStatsResponse(
        fixes=fixes,
        duplicates=duplicates,
        conflicts=conflicts,
        flags=[FlagCount(flag=flag, count=count) for flag, count in zip(FLAGS, flags, strict=True)],
        predictions=predictions,
        cursor=".".join([_PREFIX, *(f"{figure:x}" for figure in now)]),
    )


def _figures(totals: Counts) -> list[int]:
    return [totals.fixes, totals.duplicates, totals.conflicts, totals.predictions, *totals.flags]


def _read(cursor: str, count: int) -> list[int]:
    prefix, *figures = cursor.split(".")
    if prefix != _PREFIX or len(figures) != count:
        raise cursors.not_ours(cursor)
    if not all(0 < len(figure) <= 16 and set(figure) <= set("0123456789abcdef") for figure in figures):
        raise cursors.not_ours(cursor)
    return [int(figure, 16) for figure in figures]
