"""What is believed before anything was learned. Every figure is replaced by experience, see learning.py."""

from typing import Final

import numpy as np
from waymesh.gps.v1.vehicle_pb2 import VehicleType

# Door-to-door speed by VehicleType, km/h, stops at lights included; index 0: not known. Walking: Bohannon
# 1997. The others: what urban couriers usually reach, between the walker and a car in a city (TomTom
# Traffic Index 2023: 15 to 25 km/h in large centres).
SPEED_KPH: Final = np.array([15.0, 4.8, 13.0, 15.0, 20.0, 22.0, 18.0])
# Way on streets / great circle. 1.2 to 1.4 in most cities of the world (Ballou et al. 2002, "circuity
# factors").
DETOUR: Final = 1.3
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

assert len(SPEED_KPH) == len(TRAFFIC_SHARE) == len(VehicleType.keys())
