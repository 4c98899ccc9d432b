"""How couriers usually get on in a city: what is believed until something was learned, or nobody answers."""

from typing import Final

from waymesh.gps.v1.vehicle_pb2 import VehicleType

# Door-to-door speed by VehicleType, km/h, stops at lights included; index 0: not known. Walking: Bohannon
# 1997. The others: what urban couriers usually reach, between the walker and a car in a city (TomTom
# Traffic Index 2023: 15 to 25 km/h in large centres).
SPEED_KPH: Final = (15.0, 4.8, 13.0, 15.0, 20.0, 22.0, 18.0)
# Way on streets / great circle. 1.2 to 1.4 in most cities of the world (Ballou et al. 2002, "circuity
# factors").
DETOUR: Final = 1.3

assert len(SPEED_KPH) == len(VehicleType.keys())
