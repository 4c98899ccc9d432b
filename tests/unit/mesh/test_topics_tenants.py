"""Whatever the services publish says whose it is: every place in their code that makes an event is judged."""

import ast
import importlib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Final

import pytest

from services.mesh.events import Message
from services.mesh.events.topics import (
    DEAD_LETTERS,
    ORDER_COMMANDS,
    ORDERS,
    TOPICS,
    TRAFFIC_UPDATES,
)

ROOT: Final = Path(__file__).resolve().parents[3]
# What no service makes events for, and why.
OF_OTHERS: Final = {
    ORDER_COMMANDS: "what other systems ask for; they name the tenant, and who reads them qualifies",
    TRAFFIC_UPDATES: "speeds of streets, which are nobody's",
    DEAD_LETTERS: "events that died, with the headers that they had",
}
# Makes events with the tenant, and takes along those that died; both have tests of their own.
MESH: Final = ROOT / "services" / "mesh" / "events"
_FIELDS: Final = [each.name for each in fields(Message)]


def sources() -> Iterator[tuple[str, str]]:
    """Module and text of all that may publish."""
    for file in sorted((ROOT / "services").rglob("*.py")):
        if not file.is_relative_to(MESH):
            yield ".".join(file.relative_to(ROOT).with_suffix("").parts), file.read_text(encoding="utf-8")


class Events:
    """The places in a file that make events."""

    def __init__(self, source: str) -> None:
        self._tree = ast.parse(source)
        self._made = self._imported("Message")
        self._told = self._imported("event")
        calls = [node for node in ast.walk(self._tree) if isinstance(node, ast.Call)]
        self.bare = [call for call in calls if self._named(call.func, self._made, "Message")]
        self.told = [call for call in calls if self._named(call.func, self._told, "event")]

    def _imported(self, name: str) -> set[str]:
        """What the name of the mesh's events is called here."""
        return {
            one.asname or one.name
            for node in ast.walk(self._tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("services.mesh.events")
            for one in node.names
            if one.name == name
        }

    def _named(self, called: ast.expr, names: set[str], attribute: str) -> bool:
        if isinstance(called, ast.Attribute):
            return ast.unparse(called) in {f"{name}.{attribute}" for name in ("tenants", "events", "bus")}
        return isinstance(called, ast.Name) and called.id in names

    def faults(self) -> list[str]:
        """Lines that make an event and do not say whose it is."""
        return [f"line {call.lineno}" for call in self.bare if not self._says_whose(call)]

    def _says_whose(self, call: ast.Call) -> bool:
        headers = _argument(call, "headers")
        if isinstance(headers, ast.Name):
            given = [
                node.value
                for node in ast.walk(self._tree)
                if isinstance(node, ast.Assign)
                and headers.id in {one.id for one in ast.walk(node.targets[0]) if isinstance(one, ast.Name)}
            ]
            return bool(given) and all(_of_tenants(value) for value in given)
        return headers is not None and _of_tenants(headers)

    def topics(self) -> list[str]:
        """Names that stand for topics here."""
        found = [_argument(call, "topic") for call in (*self.bare, *self.told)]
        return [ast.unparse(each) for each in found if each is not None]


def _argument(call: ast.Call, name: str) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    place = _FIELDS.index(name)
    return call.args[place] if place < len(call.args) else None


def _of_tenants(value: ast.expr) -> bool:
    return any(
        isinstance(node, ast.Call) and ast.unparse(node.func) in ("tenants.headers", "tenants.headers_of")
        for node in ast.walk(value)
    )


def test_every_event_that_is_made_says_whose_it_is() -> None:
    assert {module: found for module, text in sources() if (found := Events(text).faults())} == {}


def test_every_topic_is_published_by_such_a_place_or_is_none_of_the_services() -> None:
    published = {
        getattr(importlib.import_module(module), name)
        for module, text in sources()
        for name in Events(text).topics()
    }

    assert published | OF_OTHERS.keys() == TOPICS.keys()
    assert published & OF_OTHERS.keys() == set()
    assert ORDERS in published


IMPORT = "from services.mesh.events import Message, tenants\n"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (IMPORT + "Message(topic=T, key=k, value=v, event_id=i, type=t)", ["line 2"]),
        (IMPORT + "Message(T, k, v, i, t, c, {})", ["line 2"]),
        (IMPORT + "Message(T, k, v, i, t, headers=request_id.headers())", ["line 2"]),
        (IMPORT + "h = {}\nMessage(T, k, v, i, t, headers=h)", ["line 3"]),
        (IMPORT + "h = tenants.headers(a)\nh = {}\nMessage(T, k, v, i, t, headers=h)", ["line 4"]),
        ("from services.mesh.events.bus import Message as M\nM(T, k, v, i, t)", ["line 2"]),
        ("from services.mesh import events\nevents.Message(T, k, v, i, t)", ["line 2"]),
        (IMPORT + "Message(T, k, v, i, t, c, tenants.headers(a))", []),
        (IMPORT + "k, h = 1, tenants.headers(a)\nMessage(T, k, v, i, t, headers=h)", []),
        (IMPORT + "tenants.event(T, k, v, i)", []),
        ("from google.protobuf.message import Message\nMessage()", []),
    ],
)
def test_one_that_does_not_is_found(source: str, found: list[str]) -> None:
    assert Events(source).faults() == found
