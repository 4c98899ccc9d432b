"""What a text says of an arrival: a right number may be said of the wrong thing.

That each number is somebody's is checked elsewhere. Five minutes of a leg are a number of the engine's, and
"it arrives in 5 minutes" is false all the same. A sentence that speaks of the arrival, and of nothing else
that takes time, may tell only times of the arrival.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.eta.v1.eta_pb2 import EtaPrediction, Quantiles

from services.agents.figures import Unit
from services.agents.grounding import Grounds

# The times of a text that are not those of an arrival, as they are written.
Claims = Callable[[str], list[str]]

_SENTENCES: Final = re.compile(r"(?<=[.!?;])\s+|\n+")
_ARRIVAL: Final = re.compile(
    r"\b(?:arriv\w+|deliver(?:ed|y)\b|at the door|handed over|reach\w*|will be (?:there|with)|comes? in"
    r"|takes)\b",
    re.IGNORECASE,
)
# Whoever speaks of these may speak of other times, too.
_OTHERWISE: Final = re.compile(
    r"\b(?:pick(?:s|ed)?[ -]?up|picked|collect\w*|legs?|factors?|way to|travel\w*|wait\w*|ready|kitchen"
    r"|prepar\w*|merchant|traffic|weather|rain|add(?:s|ed|ing)?|sav(?:es?|ed|ing)|longer|later|earlier"
    r"|late|early|more|less|than|without"
    r"|between|range|up to|at (?:most|least)|correction|learned|assign\w*|handing|handover|news"
    r"|ago|after|before)\b",
    re.IGNORECASE,
)
_TIMES: Final = frozenset({Unit.DURATION, Unit.CLOCK})


def of_arrival(prediction: EtaPrediction) -> Claims:
    """Finds what a text says of the prediction's arrival that the prediction does not."""
    grounds = Grounds(
        {
            "delivery_eta_minutes": prediction.delivery_eta_minutes,
            **_quantiles(prediction.delivery),
            "delivery_eta": _time(prediction.delivery_eta),
        }
    )

    def wrong(text: str) -> list[str]:
        found = []
        for sentence in _SENTENCES.split(text):
            if _ARRIVAL.search(sentence) and not _OTHERWISE.search(sentence):
                figures = grounds.figures(sentence)
                found += [one.text for one in figures if one.unit in _TIMES and not grounds.knows(one)]
        return found

    return wrong


def _quantiles(of: Quantiles) -> Mapping[str, Any]:
    return {"p10_minutes": of.p10_minutes, "p50_minutes": of.p50_minutes, "p90_minutes": of.p90_minutes}


def _time(at: Timestamp) -> Timestamp | None:
    return at if at.seconds else None
