"""Whether an order that is carried is on its way for longer than the way itself would take."""

from typing import Final

import numpy as np

from services.eta import priors
from services.eta.fixes import Bools, Ints
from services.roads.great_circle import Floats

# Overdue: half as long again as the direct way, and a little for short ones.
_SHARE: Final = 1.5
_GRACE_MIN: Final = 3.0


def overdue(straight_m: Floats, vehicle: Ints, carried_min: Floats) -> Bools:
    """True where a courier who went straight from the pickup to the door would have been there.

    `straight_m`: great circle from pickup to dropoff; `carried_min`: minutes since the pickup. It rests on
    priors alone, so that an outcome is judged as its prediction was, whatever was learned in between.
    """
    way_m = straight_m * priors.DETOUR + priors.WAY_OFFSET_M
    direct_min = way_m / (priors.SPEED_KPH[vehicle] / 3.6) / 60 + priors.HANDOVER_MIN
    return np.asarray(carried_min > _SHARE * direct_min + _GRACE_MIN)
