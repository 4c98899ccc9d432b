"""Weather from a provider that speaks as OpenWeatherMap does."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import aiohttp
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_TARGET_UNAVAILABLE

from services.mesh.errors import Unavailable

OPENWEATHERMAP: Final = "https://api.openweathermap.org"
# A forecast for five days takes some 16 KiB.
_MAX_BYTES: Final = 256 * 1024
# Up to here what is measured now is good for a time asked about; from there on it is a forecast's.
_NOW_S: Final = 3600.0
# Forecasts are three hours apart.
_FORECAST_STEP_S: Final = 3 * 3600.0
_STRONG_WIND_MPS: Final = 10.8  # Beaufort 6, "strong breeze"

# Condition codes (https://openweathermap.org/weather-conditions): first, last, name in order.v1.Weather.
_CONDITIONS: Final = (
    (200, 299, "storm"),
    (300, 599, "rain"),
    (600, 699, "snow"),
    (731, 731, "sandstorm"),
    (751, 761, "sandstorm"),
    (771, 781, "storm"),
    (700, 799, "fog"),
    (800, 800, "clear"),
    (801, 899, "cloudy"),
)


@dataclass(frozen=True, slots=True)
class Observation:
    """Weather at a place and time."""

    condition: str
    """A value of order.v1.Weather, in lower case, without its prefix."""
    temperature_c: float | None
    wind_mps: float | None
    at: datetime
    forecast: bool


class WeatherSource(Protocol):
    """Where weather comes from."""

    async def at(self, lat: float, lon: float, when: datetime, now: datetime) -> Observation | None:
        """Weather at a place (degrees) and time; None if it cannot be known. Raises Unavailable."""
        ...


class OpenWeatherMap:
    """The provider by HTTP. Close it before the loop ends."""

    def __init__(self, key: str, base_url: str = OPENWEATHERMAP, timeout_s: float = 3.0) -> None:
        self._key = key
        self._base_url = base_url.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def at(self, lat: float, lon: float, when: datetime, now: datetime) -> Observation | None:
        ahead_s = (when - now).total_seconds()
        if abs(ahead_s) <= _NOW_S:
            return _observation(await self._get("weather", lat, lon), forecast=False)
        if ahead_s < 0:
            return None
        steps = (await self._get("forecast", lat, lon)).get("list")
        nearest = (
            min(
                (_observation(step, forecast=True) for step in steps if isinstance(step, dict)),
                key=lambda one: abs((one.at - when).total_seconds()),
                default=None,
            )
            if isinstance(steps, list)
            else None
        )
        if nearest is None or abs((nearest.at - when).total_seconds()) > _FORECAST_STEP_S:
            return None
        return nearest

    async def close(self) -> None:
        """Ends its connections."""
        if self._session is not None:
            await self._session.close()

    async def _get(self, what: str, lat: float, lon: float) -> dict[str, Any]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)
        # Two digits are some kilometres: enough for weather, and says of nobody where they live.
        query = {"lat": f"{lat:.2f}", "lon": f"{lon:.2f}", "units": "metric", "appid": self._key}
        try:
            async with self._session.get(
                f"{self._base_url}/data/2.5/{what}", params=query, allow_redirects=False
            ) as answer:
                if answer.status != 200:
                    raise _away()
                value = json.loads(await _whole(answer))
        except (aiohttp.ClientError, TimeoutError, ValueError, RecursionError):
            # The error's own text holds the key, which is part of the address.
            raise _away() from None
        if not isinstance(value, dict):
            raise _away()
        return value


async def _whole(answer: aiohttp.ClientResponse) -> bytes:
    """The body, in however many pieces it comes. Raises ValueError for one that is no weather's."""
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > _MAX_BYTES:
            raise ValueError("too large")
    return bytes(body)


def _away() -> Unavailable:
    return Unavailable(
        "the weather provider did not answer",
        reason=ERROR_REASON_TARGET_UNAVAILABLE,
        metadata={"target": "weather"},
        retry_after_s=1.0,
    )


def _observation(body: Mapping[str, Any], *, forecast: bool) -> Observation:
    try:
        code = int(body["weather"][0]["id"])
        at = datetime.fromtimestamp(float(body["dt"]), UTC)
        wind = _number(body.get("wind"), "speed")
        condition = next(name for first, last, name in _CONDITIONS if first <= code <= last)
    except (KeyError, IndexError, TypeError, ValueError, OverflowError, OSError, StopIteration):
        raise _away() from None
    if condition in ("clear", "cloudy") and wind is not None and wind >= _STRONG_WIND_MPS:
        condition = "windy"
    return Observation(condition, _number(body.get("main"), "temp"), wind, at, forecast)


def _number(part: object, name: str) -> float | None:
    value = part.get(name) if isinstance(part, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
