"""Places among arguments: `lat,lon` as text, or an object."""

from typing import Annotated, Final

from pydantic import Field
from waymesh.gps.v1.location_pb2 import Location

from services.agents.tools.signature import Part

_TEXT: Final = r"^ *-?\d{1,3}(\.\d{1,12})? *, *-?\d{1,3}(\.\d{1,12})? *$"


class Place(Part):
    """A point on Earth, WGS 84."""

    lat: float = Field(description="Latitude in degrees.", ge=-90, le=90)
    lon: float = Field(description="Longitude in degrees.", ge=-180, le=180)


PlaceText = Annotated[
    str, Field(description='"lat,lon" in degrees, such as "-23.5505,-46.6333".', pattern=_TEXT)
]
AnyPlace = PlaceText | Place


def location(place: str | Place) -> Location | None:
    """The point; None if a text's numbers are none of a point."""
    if isinstance(place, Place):
        return Location(lat=place.lat, lon=place.lon)
    lat, lon = (float(part) for part in place.split(","))
    if abs(lat) > 90 or abs(lon) > 180:
        return None
    return Location(lat=lat, lon=lon)
