"""What is believed before anything was learned. Every figure is replaced by experience, see learning.py."""

from typing import Final

import numpy as np

from services.roads import usual

# By VehicleType, km/h.
SPEED_KPH: Final = np.array(usual.SPEED_KPH)
DETOUR: Final = usual.DETOUR
# Metres that no straight line shows: around the block, through the yard.
WAY_OFFSET_M: Final = 60.0
# Where a courier comes from who is not known yet.
APPROACH_M: Final = 1500.0

ASSIGN_MIN: Final = 4.0
PREP_MIN: Final = 12.0
# At the counter and at the door, with nothing to wait for.
DWELL_MIN: Final = 2.5
HANDOVER_MIN: Final = 2.0
# Delay of one order by each further one that travels with it: half the others' stops come first.
BATCH_STOP_MIN: Final = 2.0

# Share by which travel takes longer than usual, by TrafficDensity and by Weather; index 0: not known.
TRAFFIC: Final = np.array([1.0, 0.92, 1.0, 1.2, 1.45])
WEATHER: Final = np.array([1.0, 1.0, 1.0, 1.08, 1.05, 1.12, 1.2, 1.3, 1.15])
# On foot and on small wheels a courier passes the jam.
TRAFFIC_SHARE: Final = np.array([0.8, 0.0, 0.3, 0.3, 0.7, 0.8, 1.0])

assert len(SPEED_KPH) == len(TRAFFIC_SHARE)
