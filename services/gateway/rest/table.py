"""Paths to bindings: a tree of segments, in which texts go before variables."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

from services.gateway.rest.binding import Binding

_SLASH: Final = b"/"


@dataclass(slots=True)
class Node:
    """A place in the tree, and what is bound to the paths that end there, by HTTP method."""

    texts: "dict[bytes, Node]" = field(default_factory=dict)
    variable: "Node | None" = None
    bindings: dict[str, Binding] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Match:
    """A path that is bound to something. `values` are its variable segments as they were sent."""

    bindings: dict[str, Binding]
    values: tuple[bytes, ...]


class Table:
    """Raises ValueError if one request could mean two RPCs, or is one of the `taken` paths."""

    def __init__(self, bindings: Iterable[Binding], taken: Iterable[str] = ()) -> None:
        self.bindings = list(bindings)
        self._root = Node()
        self._depth = 0
        taken = frozenset(taken)
        for binding in self.bindings:
            if binding.template.text in taken:
                raise ValueError(f"{binding.path} cannot have the path {binding.template.text}: it is taken")
            self._add(binding)

    def find(self, raw_path: bytes) -> list[Match]:
        """What a path, as it was sent, may mean; what its texts say comes before what fills variables.

        A slash that is encoded does not part segments.
        """
        first, *segments = raw_path.split(_SLASH)
        if first or len(segments) > self._depth:
            return []
        return list(_matches(self._root, segments, ()))

    def _add(self, binding: Binding) -> None:
        node = self._root
        for segment in binding.template.segments:
            if segment.text:
                node = node.texts.setdefault(segment.text.encode(), Node())
            else:
                node.variable = node.variable or Node()
                node = node.variable
        other = node.bindings.setdefault(binding.method, binding)
        if other is not binding:
            shown = f"{other.method} {other.template.text} and {binding.method} {binding.template.text}"
            raise ValueError(f"{other.path} and {binding.path} cannot be told apart: {shown}")
        self._depth = max(self._depth, len(binding.template.segments))


def _matches(node: Node, segments: list[bytes], values: tuple[bytes, ...]) -> Iterator[Match]:
    if not segments:
        if node.bindings:
            yield Match(node.bindings, values)
        return
    segment, *rest = segments
    text = node.texts.get(unquote_to_bytes(segment))
    if text is not None:
        yield from _matches(text, rest, values)
    if node.variable is not None and segment:
        yield from _matches(node.variable, rest, (*values, segment))
