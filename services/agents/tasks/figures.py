"""Figures in a model's structured answer: where an engine gave a field, the engine's value stands.

That each number comes from some engine is checked before. This is about the right number in the right place:
a model may put the slow estimate where the median belongs.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from waymesh.agent.v1.run_pb2 import Evidence

from services.agents.structs import plain

# Names of agents' answers that engines call otherwise.
_ENGINES_NAME: Final[Mapping[str, str]] = {"confidence_score": "confidence"}
# What tells of which order a value is.
_IDENTITY: Final = "order_id"


def with_engines_figures(answer: Mapping[str, Any], evidence: Iterable[Evidence]) -> dict[str, Any]:
    """The answer with the engines' values in all fields of numbers that engines gave under the same name.

    Of several orders those of the answer's own are taken. Where engines gave several values, one of which is
    the answer's, that stays.
    """
    given = [entry for one in evidence for entry in _objects(plain(one.result))]
    corrected = _corrected(answer, given, "")
    assert isinstance(corrected, dict)
    return corrected


def _corrected(value: object, given: list[Mapping[str, Any]], order: str) -> object:
    if isinstance(value, list):
        return [_corrected(one, given, order) for one in value]
    if not isinstance(value, Mapping):
        return value
    own = value.get(_IDENTITY)
    order = own if isinstance(own, str) and own else order
    return {
        name: _figure(name, one, given, order) if _is_number(one) else _corrected(one, given, order)
        for name, one in value.items()
    }


def _figure(name: str, value: Any, given: list[Mapping[str, Any]], order: str) -> Any:
    wanted = (name, _ENGINES_NAME.get(name, name))
    of_order = [one for one in given if not order or one.get(_IDENTITY, order) == order]
    known = [one[each] for one in of_order for each in wanted if _is_number(one.get(each))]
    return value if not known or value in known else known[0]


def _objects(value: object) -> Iterator[Mapping[str, Any]]:
    """All objects within a value, outermost first."""
    if isinstance(value, Mapping):
        yield value
        for one in value.values():
            yield from _objects(one)
    elif isinstance(value, list):
        for one in value:
            yield from _objects(one)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
