"""Reads the numbers of an explanation and looks for each in the answer it explains.

It knows nothing of how the product reads numbers, only the few forms in which its sentences have them: an
error that both sides of the product share shows here.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

_NUMBER: Final = r"\d+(?:,\d{3})*(?:\.\d+)?"
_SAID: Final = re.compile(
    rf"""(?<![\w.,:])(?<!\w-)(?:
      (?P<date>\d{{4}}-\d\d-\d\d)
    | (?P<clock>\d\d:\d\d)\ UTC
    | (?P<hours>{_NUMBER})\ h\ (?P<rest>\d+)\ min\b
    | (?P<share>{_NUMBER})%
    | (?P<minutes>{_NUMBER})(?=\ min(?:utes)?\b|\ to\ {_NUMBER}\ minutes\b)
    | (?P<km>{_NUMBER})\ km\b
    | (?P<m>{_NUMBER})\ m\b
    | (?P<plain>{_NUMBER})
    )""",
    re.VERBOSE | re.ASCII,
)
# Forms of another measure: what is said of one may be in the answer as the other.
_KINDS: Final = {"hours": "minutes", "km": "metres", "m": "metres"}
_IDS: Final = ("order_id", "driver_id", "assigned_driver_id")
_TEXTS: Final = ("reason", "reasoning", "unallocated_reason")
_DIGITS: Final = re.compile(r"\w*\d[\w-]*")
_QUANTILE_NAMES: Final = "(P10 to P90)"


class Said(NamedTuple):
    """A number: `of` is minutes, metres, share, date, clock or plain; `give` is what rounding hides."""

    of: str
    value: float
    give: float
    words: str


def strange(text: str, answer: Message) -> list[str]:
    """The numbers of the text that are not in the answer, as they are written."""
    fields = list(_fields(answer))
    names = {str(value) for name, value in fields if name in _IDS and value}
    for name in sorted(names, key=len, reverse=True):
        text = re.sub(rf"\b(order|courier) {re.escape(name)}(?![\w-])", r"\1", text, flags=re.IGNORECASE)
    text = text.replace(_QUANTILE_NAMES, "")
    texts = [str(value) for name, value in fields if name in _TEXTS]
    told = {(one.of, one.value) for each in texts for one in _said(each)}
    given = [pair for name, value in fields for pair in _given(name, value)]
    unknown = [
        one.words
        for one in _said(text)
        if (one.of, one.value) not in told
        and not any(
            kind == one.of and min(abs(value - one.value), abs(value + one.value)) <= one.give
            for kind, value in given
        )
    ]
    # Whatever else has a digit was not read, so it had better be a word of the engine.
    # Of `0A0` the number was read and `A0` is left, there as here.
    words = {word for each in texts for form in (each, _SAID.sub("", each)) for word in _DIGITS.findall(form)}
    return unknown + [word for word in _DIGITS.findall(_SAID.sub("", text)) if word not in words]


def _said(text: str) -> Iterator[Said]:
    for match in _SAID.finditer(text):
        form = match.lastgroup or ""
        if form == "rest":
            minutes = 60 * _value(match["hours"]) + _value(match["rest"])
            yield Said("minutes", minutes, 0.5, match[0])
        elif form == "date":
            yield Said(
                "date", datetime.fromisoformat(f"{match['date']}T00:00+00:00").timestamp(), 0, match[0]
            )
        elif form == "clock":
            hour, minute = match["clock"].split(":")
            yield Said("clock", 60 * int(hour) + int(minute), 0, match[0])
        else:
            scale = {"km": 1000.0, "share": 0.01}.get(form, 1.0)
            value = _value(match[form]) * scale
            step = scale * 10.0 ** -len(match[form].partition(".")[2])
            yield Said(_KINDS.get(form, form), value, step / 2 + 1e-9 * max(1.0, value), match[0])


def _value(written: str) -> float:
    return float(written.replace(",", ""))


def _given(name: str, value: object) -> Iterator[tuple[str, float]]:
    """What a field of an answer lets an explanation say."""
    if isinstance(value, Timestamp):
        if -62135596800 <= value.seconds <= 253402300799:
            at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=value.seconds)
            yield "clock", 60 * at.hour + at.minute
            yield "date", at.replace(hour=0, minute=0, second=0).timestamp()
    elif isinstance(value, float):
        if name.endswith("minutes") or name == "time_savings":
            yield "minutes", value
        elif name.endswith("_m"):
            yield "metres", value
        elif name in ("confidence", "promise_probability"):
            yield "share", value
        else:
            yield "plain", value


def _fields(message: Message) -> Iterator[tuple[str, object]]:
    """Every field that is set or has no presence, with its name, in all messages within."""
    for field in message.DESCRIPTOR.fields:
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        for one in value if field.is_repeated else (value,):
            if isinstance(one, Message) and not isinstance(one, Timestamp):
                yield from _fields(one)
            else:
                yield field.name, one
