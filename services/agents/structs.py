"""Plain JSON values and the messages that hold them."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import struct_pb2

from services.mesh import json_codec


def struct(value: Mapping[str, Any]) -> struct_pb2.Struct:
    """A mapping of plain JSON as a Struct."""
    made = struct_pb2.Struct()
    made.update(value)
    return made


def plain(value: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct as a mapping of plain JSON; whole numbers are integers."""
    return json_codec.struct_to_dict(value)
