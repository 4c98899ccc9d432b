"""What is kept of what a run was given and gave: without secrets, and no more than there is room for.

What is left out is marked. Text is cut with its secrets out, since a part of one is not known as a secret.
An answer is kept as it was given, whatever is in it: the same run again gets the very same.
"""

from collections.abc import Iterable
from typing import Final

from google.protobuf.struct_pb2 import ListValue, Struct, Value
from waymesh.agent.v1 import run_pb2 as pb

from services.agents.runs.plain import is_plain
from services.mesh.feedback.clip import clip_text
from services.mesh.json_limits import PLAIN_DEPTH
from services.mesh.redact import redact, redact_text

MAX_INPUT_BYTES: Final = 16 * 1024
MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_STEP_BYTES: Final = 8 * 1024
MAX_STEPS: Final = 200
CUT: Final = "[left out: too large]"

# What a value takes besides its text: tags and lengths of the messages around it.
_AROUND_BYTES: Final = 16
# UTF-8 takes up to four bytes for a character; most of what is said takes one.
_SHRINK: Final = 2


def kept_struct(given: Struct, max_bytes: int = MAX_STEP_BYTES) -> Struct:
    """A Struct without secrets, of at most `max_bytes`; the given one if it is such."""
    if given.ByteSize() <= max_bytes and is_plain(given):
        return given
    room = max_bytes
    while True:
        kept = Struct()
        clean = redact(_Cut(room).fields(given))
        if isinstance(clean, dict):
            kept.update(clean)
        if kept.ByteSize() <= max_bytes:
            return kept
        room //= _SHRINK


def kept_text(text: str, max_bytes: int = MAX_ANSWER_BYTES) -> str:
    """An answer as its caller was told it, at most `max_bytes` of it. PostgreSQL takes no zero in a text."""
    text = text.replace("\0", "")
    encoded = text.encode()
    if len(encoded) <= max_bytes:
        return text
    return encoded[: max_bytes - len(CUT)].decode(errors="ignore") + CUT


def kept_step(step: pb.RunStep) -> pb.RunStep:
    """A step as it is kept."""
    kept = pb.RunStep()
    kept.CopyFrom(step)
    for field in ("arguments", "result"):
        given = getattr(step, field)
        if step.HasField(field) and (clean := kept_struct(given)) is not given:
            getattr(kept, field).CopyFrom(clean)
    if step.HasField("error"):
        kept.error.message = redact_text(step.error.message)
    return kept


def kept_steps(steps: Iterable[pb.RunStep]) -> bytes:
    """Steps as they are kept, as a Run that holds nothing else."""
    kept = pb.Run()
    for place, step in enumerate(steps):
        if place == MAX_STEPS:
            break
        kept.steps.append(kept_step(step))
    return kept.SerializeToString()


class _Cut:
    """Takes a Struct apart as far as there is room."""

    def __init__(self, room: int) -> None:
        self._room = room

    def fields(self, given: Struct, depth: int = PLAIN_DEPTH) -> dict[str, object]:
        plain: dict[str, object] = {}
        for name in given.fields:
            if self._room <= 0:
                plain[CUT] = None
                break
            self._room -= len(name.encode()) + _AROUND_BYTES
            plain[self._text(name)] = self._value(given.fields[name], depth - 1)
        return plain

    def _items(self, given: ListValue, depth: int) -> list[object]:
        plain: list[object] = []
        for value in given.values:
            if self._room <= 0:
                plain.append(CUT)
                break
            self._room -= _AROUND_BYTES
            plain.append(self._value(value, depth))
        return plain

    def _value(self, value: Value, depth: int) -> object:
        kind = value.WhichOneof("kind")
        if kind == "string_value":
            return self._text(value.string_value)
        if kind == "number_value":
            return value.number_value
        if kind == "bool_value":
            return value.bool_value
        if depth <= 0:
            return CUT
        if kind == "struct_value":
            return self.fields(value.struct_value, depth - 1)
        if kind == "list_value":
            return self._items(value.list_value, depth - 1)
        return None

    def _text(self, text: str) -> str:
        room = max(0, self._room)
        self._room -= len(text)
        if len(text) <= room:
            return text
        return clip_text(text, max(1, room - len(CUT))) + CUT
