"""Recorded fixes as traces: one stretch of one person's way without a gap."""

import csv
import gzip
import zlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.roads.great_circle import great_circle_m

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_Fix = tuple[np.datetime64, float, float, int]

COLUMNS: Final = ("lat", "lng", "datetime", "uid")
GAP_US: Final = 5 * 60 * 1_000_000
# Shorter pieces tell too little of a delivery to judge a prediction by.
MIN_SCORED: Final = 60
# What a GpsEvent may say.
_MAX_SPEED_KPH: Final = 2000.0


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
    line: Ints
    """Where each fix stands in its file, from 1."""

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
    rows: defaultdict[str, list[_Fix]] = defaultdict(list)
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
                if not row:
                    continue  # an empty line, as at the end of many files
                try:
                    fix = (np.datetime64(row[time], "us"), float(row[lat]), float(row[lon]), reader.line_num)
                    rows[row[uid]].append(fix)
                except (ValueError, IndexError):
                    right = False
                else:
                    right = -90 <= fix[1] <= 90 and -180 <= fix[2] <= 180 and fix[0] == fix[0]  # not NaT
                if not right:
                    raise BadTraceError(f"{path}: line {reader.line_num} {_fault(row, header)}")
    except (OSError, EOFError, UnicodeError, zlib.error, csv.Error) as error:
        raise BadTraceError(f"{path} cannot be read: {_reason(error)}") from error
    traces = [trace for person, fixes in rows.items() for trace in _split(person, fixes)]
    if not traces:
        raise BadTraceError(f"{path} holds no fix")
    return sorted(traces, key=lambda trace: int(trace.at_us[0]))


def _fault(row: list[str], header: list[str]) -> str:
    """What is wrong with a line that is no fix."""
    if len(row) <= max(header.index(name) for name in COLUMNS):
        return f"has {len(row)} columns, expected are {len(header)}: {','.join(header)}"
    for name, (read, expected) in _EXPECTED.items():
        text = row[header.index(name)]
        try:
            if read(text):
                continue
        except ValueError:
            pass
        return f"has '{text[:80]}' in column {name}, expected is {expected}"
    return "is no fix"


def _is_time(text: str) -> bool:
    return not np.isnat(np.datetime64(text, "us"))


_EXPECTED: Final[dict[str, tuple[Callable[[str], bool], str]]] = {
    "lat": (lambda text: -90 <= float(text) <= 90, "a latitude in degrees from -90 to 90"),
    "lng": (lambda text: -180 <= float(text) <= 180, "a longitude in degrees from -180 to 180"),
    "datetime": (_is_time, "a time in UTC such as 2008-10-23 05:00:00"),
}


def _reason(error: Exception) -> str:
    """Why a file cannot be read, in other words than Python's."""
    match error:
        case gzip.BadGzipFile():
            return "it is not packed by gzip, as its name says"
        case EOFError():
            return "it ends too early, as if a part of it were missing"
        case zlib.error():
            return "it is damaged"
        case UnicodeError():
            return "it is not text in UTF-8"
        case OSError():
            return (error.strerror or str(error)).lower()
        case _:
            return str(error)


def _split(uid: str, fixes: list[_Fix]) -> list[Trace]:
    at_us = np.array([fix[0] for fix in fixes], dtype="datetime64[us]").astype(np.int64)
    lat = np.array([fix[1] for fix in fixes])
    lon = np.array([fix[2] for fix in fixes])
    line = np.array([fix[3] for fix in fixes], dtype=np.int64)
    order = np.argsort(at_us, kind="stable")
    at_us, lat, lon, line = at_us[order], lat[order], lon[order], line[order]
    cuts = np.flatnonzero(np.diff(at_us) > GAP_US) + 1
    pieces = zip(*(np.split(each, cuts) for each in (at_us, lat, lon, line)), strict=True)
    return [
        Trace(uid, number, times, lats, lons, _speed_kph(times, lats, lons), lines)
        for number, (times, lats, lons, lines) in enumerate(pieces)
    ]


def _speed_kph(at_us: Ints, lat: Floats, lon: Floats) -> Floats:
    """Speed over the way from the fix before: at most what a fix may say."""
    speed = np.zeros(len(at_us))
    if len(at_us) < 2:
        return speed
    way_m = great_circle_m(lat[:-1], lon[:-1], lat[1:], lon[1:])
    time_s = np.diff(at_us) / 1e6
    np.divide(way_m * 3.6, time_s, out=speed[1:], where=time_s > 0)
    return np.minimum(speed, _MAX_SPEED_KPH)
