"""Figures in a model's structured answer: where an engine's value fits a place and no other does, it stands.

That each number comes from some engine is checked before. This is about the right number in the right place:
a model may put the slow estimate where the median belongs. A value that may be right stays as it is.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

from waymesh.agent.v1.run_pb2 import Evidence

from services.agents.llm.kinds import CallError
from services.agents.llm.schema import shape_of
from services.agents.structs import plain

# Names of agents' answers that engines call otherwise.
_ENGINES_NAME: Final[Mapping[str, str]] = {"confidence_score": "confidence"}
# What tells of which order a value is.
_IDENTITY: Final = "order_id"
# What tells items of a list apart.
_LABELS: Final = ("name", "kind")
# Objects that only wrap what they hold: an answer may leave them out.
_WRAPPERS: Final = frozenset({"allocation", "order", "plan", "prediction"})
# What rounding in binary adds to a decimal half, as a share of the value.
_SLACK: Final = 1e-9


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an object stands: of which order it is, within what, and which of its kind it is."""

    order: str = ""
    within: str = ""
    label: tuple[str, ...] = ()

    def enter(self, name: str) -> "_Place":
        return self if name in _WRAPPERS else replace(self, within=name, label=())

    def of(self, value: Mapping[str, Any], *, item: bool) -> "_Place":
        """The place of an object here, by what it says of itself."""
        own = value.get(_IDENTITY)
        found = replace(self, order=own, within="") if isinstance(own, str) and own else self
        if item:
            said = tuple(str(value.get(name, "")) for name in _LABELS)
            found = replace(found, label=said if any(said) else ())
        return found

    def is_told_apart(self) -> bool:
        return bool(self.order or self.label)


def with_engines_figures(
    answer: Mapping[str, Any], evidence: Iterable[Evidence], schema: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The answer with the engines' values where another number stands in a place of theirs.

    A place is a field's name, the object and the order that it belongs to, and in a list the item's name.
    Where engines gave several values for it, and where the model's is theirs or rounds it, the model's stays.
    Theirs are told in whole numbers if `schema` asks for these; if it takes neither, all stays as it is.
    """
    given: dict[tuple[str, str, tuple[str, ...]], list[tuple[str, float]]] = {}
    for one in evidence:
        for place, name, value in _numbers(plain(one.result), _Place()):
            given.setdefault((name, place.within, place.label), []).append((place.order, value))
    for in_whole in (False, True):
        corrected = _corrected(answer, _Place(), _Known(given, in_whole), item=False)
        if corrected == answer:
            break
        if isinstance(corrected, dict) and _fits(corrected, schema):
            return corrected
    return dict(answer)


@dataclass(frozen=True, slots=True)
class _Known:
    """What engines gave: by field, object and item's name the values with their orders."""

    given: Mapping[tuple[str, str, tuple[str, ...]], list[tuple[str, float]]]
    in_whole: bool

    def figure(self, name: str, value: Any, place: _Place) -> Any:
        """The engine's value if there is one for this place and the model's is another; else the model's."""
        known = {
            one
            for each in {name, _ENGINES_NAME.get(name, name)}
            for order, one in self.given.get((each, place.within, place.label), ())
            if not place.order or order == place.order
        }
        if len(known) != 1 or any(_rounds(value, one) for one in known):
            return value
        (engines,) = known
        return round(engines) if self.in_whole and isinstance(value, int) else engines


def _corrected(value: object, place: _Place, known: _Known, *, item: bool) -> object:
    if isinstance(value, list):
        return [_corrected(one, place, known, item=True) for one in value]
    if not isinstance(value, Mapping):
        return value
    here = place.of(value, item=item)
    return {
        name: known.figure(name, one, here)
        if _is_number(one)
        else _corrected(one, here.enter(name), known, item=False)
        for name, one in value.items()
    }


def _numbers(value: object, place: _Place, *, item: bool = False) -> Iterator[tuple[_Place, str, float]]:
    """All numbers of a tool's result with their places, but for items of lists that nothing tells apart."""
    if isinstance(value, list):
        for one in value:
            yield from _numbers(one, place, item=True)
    if not isinstance(value, Mapping):
        return
    here = place.of(value, item=item)
    if item and not here.is_told_apart():
        return
    for name, one in value.items():
        if _is_number(one):
            yield here, name, one
        else:
            yield from _numbers(one, here.enter(name))


def _rounds(value: float, exact: float) -> bool:
    """Whether a number is another, told with fewer digits."""
    exponent = Decimal(str(value)).as_tuple().exponent
    step = 10.0**exponent if isinstance(exponent, int) else 0.0
    return abs(exact - value) <= step / 2 + _SLACK * abs(exact)


def _fits(answer: Mapping[str, Any], schema: Mapping[str, Any] | None) -> bool:
    if schema is None:
        return True
    try:
        shape_of(schema).read(json.dumps(answer))
    except CallError:
        return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
