"""Whether a courier has left the planned way. Pure.

Without a road network the way of a leg is not known, only its ends. A courier on it is somewhere in an
ellipse around them: the way over the present position is not much longer than the leg itself. City streets
make a leg up to 1.41 times as long as its straight line (both sides of a square), so the margin starts
above that.
"""

from typing import Final

from services.route.travel import Place, distance_m

# Share of the leg and least metres by which the way over the present position may be longer.
_MARGIN_SHARE: Final = 0.6
_MARGIN_M: Final = 600.0


def has_left(origin: Place, target: Place, now: Place) -> bool:
    """Whether a courier on the leg from `origin` to `target` who is at `now` has left it."""
    leg = distance_m(origin, target)
    over = distance_m(origin, now) + distance_m(now, target)
    return over - leg > max(_MARGIN_M, _MARGIN_SHARE * leg)
