"""Recorded fixes as traces: one stretch of one person's way without a gap."""

import csv
import gzip
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

COLUMNS: Final = ("lat", "lng", "datetime", "uid")
GAP_US: Final = 5 * 60 * 1_000_000
# Shorter pieces tell too little of a delivery to judge a prediction by.
MIN_SCORED: Final = 60
# What a GpsEvent may say.
_MAX_SPEED_KPH: Final = 2000.0
_EARTH_RADIUS_M: Final = 6_371_008.8  # IUGG mean radius R1


class BadTraceError(Exception):
    """The file cannot be read; the text names the line and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Trace:
    """n fixes in time order."""

    uid: str
    number: int
    """Which piece of the person's way, from 0."""
    at_us: Ints
    lat: Floats
    lon: Floats
    speed_kph: Floats
    """From the fix before; 0 for the first."""

    def __len__(self) -> int:
        return len(self.at_us)

    @property
    def scored(self) -> bool:
        """Whether it is long enough to be a delivery."""
        return len(self) >= MIN_SCORED


def read_traces(path: Path) -> list[Trace]:
    """The traces of a csv or csv.gz with the columns lat, lng, datetime (UTC) and uid, in order of their
    start.

    Each person's fixes are put in time order, then split where more than five minutes passed. Raises
    BadTraceError.
    """
    rows: defaultdict[str, list[tuple[np.datetime64, float, float]]] = defaultdict(list)
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            missing = [name for name in COLUMNS if name not in header]
            if missing:
                raise BadTraceError(f"{path}: line 1 has no column {', '.join(missing)}")
            lat, lon, time, uid = (header.index(name) for name in COLUMNS)
            for row in reader:
                try:
                    rows[row[uid]].append((np.datetime64(row[time], "us"), float(row[lat]), float(row[lon])))
                except (ValueError, IndexError) as error:
                    raise BadTraceError(f"{path}: line {reader.line_num}: {error}") from error
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise BadTraceError(f"{path} cannot be read: {error}") from error
    traces = [trace for person, fixes in rows.items() for trace in _split(person, fixes)]
    if not traces:
        raise BadTraceError(f"{path} holds no fix")
    return sorted(traces, key=lambda trace: int(trace.at_us[0]))


def _split(uid: str, fixes: list[tuple[np.datetime64, float, float]]) -> list[Trace]:
    at_us = np.array([fix[0] for fix in fixes], dtype="datetime64[us]").astype(np.int64)
    lat = np.array([fix[1] for fix in fixes])
    lon = np.array([fix[2] for fix in fixes])
    order = np.argsort(at_us, kind="stable")
    at_us, lat, lon = at_us[order], lat[order], lon[order]
    cuts = np.flatnonzero(np.diff(at_us) > GAP_US) + 1
    pieces = zip(np.split(at_us, cuts), np.split(lat, cuts), np.split(lon, cuts), strict=True)
    return [
        Trace(uid, number, times, lats, lons, _speed_kph(times, lats, lons))
        for number, (times, lats, lons) in enumerate(pieces)
    ]


def _speed_kph(at_us: Ints, lat: Floats, lon: Floats) -> Floats:
    """Speed over the way from the fix before: by haversine (Sinnott 1984), at most what a fix may say."""
    speed = np.zeros(len(at_us))
    if len(at_us) < 2:
        return speed
    phi, lam = np.radians(lat), np.radians(lon)
    half = np.sin(np.diff(phi) / 2) ** 2 + np.cos(phi[:-1]) * np.cos(phi[1:]) * np.sin(np.diff(lam) / 2) ** 2
    way_m = 2 * _EARTH_RADIUS_M * np.arcsin(np.sqrt(np.minimum(half, 1.0)))
    time_s = np.diff(at_us) / 1e6
    np.divide(way_m * 3.6, time_s, out=speed[1:], where=time_s > 0)
    return np.minimum(speed, _MAX_SPEED_KPH)
