"""Plain JSON values and the messages that hold them."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import struct_pb2
from waymesh.agent.v1.run_pb2 import RunStep

from services.mesh import json_codec


def struct(value: Mapping[str, Any]) -> struct_pb2.Struct:
    """A mapping of plain JSON as a Struct."""
    made = struct_pb2.Struct()
    made.update(value)
    return made


def checked(value: object) -> struct_pb2.Struct:
    """What a JSON parser made of a text from outside, as a Struct.

    Raises InvalidArgument for what is no object, or holds what no message can hold.
    """
    step: RunStep = json_codec.from_dict(RunStep, {"arguments": value})
    return step.arguments


def plain(value: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as a mapping of plain JSON; whole numbers are integers."""
    return json_codec.struct_to_dict(value)
