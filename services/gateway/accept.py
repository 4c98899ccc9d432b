"""What a client will take as an answer, by its `Accept` header (RFC 9110, 12.5.1)."""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

EVENTS: Final = b"text/event-stream"
_Q: Final = re.compile(rb"\s*q\s*=\s*(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)\s*")


@dataclass(frozen=True, slots=True)
class Preference:
    """How welcome each form is, 0 to 1; 0 is not at all."""

    events: float
    json: float


@lru_cache(maxsize=256)
def preference(accept: bytes) -> Preference:
    """Of a header. Events are welcome only where they are named: `*/*` is what clients say that want JSON."""
    weights: dict[bytes, float] = {}
    for each in accept.lower().split(b","):
        kind, *parameters = each.split(b";")
        weights[kind.strip()] = next((float(q[1]) for p in parameters if (q := _Q.fullmatch(p))), 1.0)
    json = next(
        (weights[kind] for kind in (b"application/json", b"application/*", b"*/*") if kind in weights), 0.0
    )
    return Preference(weights.get(EVENTS, 0.0), json)
