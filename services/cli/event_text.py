"""The value of an event for a person to read: JSON where it can be read, else its bytes."""

import json
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from services.mesh.events.letters import Letter

_PREVIEW_BYTES: Final = 512
_ROW_BYTES: Final = 16
_MOST_CHARS: Final = 100_000


def value_text(letter: "Letter") -> str:
    """Several lines."""
    if letter.omitted_bytes:
        return f"its value of {letter.omitted_bytes} bytes was too large to be kept"
    if not letter.value:
        return "it has no value"
    text = _json(letter.value) or _protobuf(letter)
    if text is None:
        return "\n".join(_hex(letter.value))
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}\n… {len(text)} characters in all"


def _json(value: bytes) -> str | None:
    try:
        return json.dumps(json.loads(value), indent=2, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None


def _protobuf(letter: "Letter") -> str | None:
    """As the message its type names, if it is one."""
    from google.protobuf.message import DecodeError

    from services.mesh import json_codec

    kind = _message_class(letter.type)
    if kind is None:
        return None
    try:
        message = kind.FromString(letter.value)
        return json.dumps(json_codec.to_dict(message), indent=2, ensure_ascii=False)
    except (DecodeError, ValueError, RecursionError):
        return None


def _message_class(name: str) -> "type[Message] | None":
    """Of our contracts."""
    package, _, _ = name.rpartition(".")
    if not package.startswith("waymesh."):
        return None
    from google.protobuf import message_factory
    from google.protobuf.descriptor_pool import Default

    try:
        folder = import_module(package)
    except ImportError:
        return None
    for module in pkgutil.iter_modules(folder.__path__):
        if module.name.endswith("_pb2"):
            import_module(f"{package}.{module.name}")
    try:
        return message_factory.GetMessageClass(Default().FindMessageTypeByName(name))
    except KeyError:
        return None


def _hex(value: bytes) -> Iterator[str]:
    for start in range(0, min(len(value), _PREVIEW_BYTES), _ROW_BYTES):
        row = value[start : start + _ROW_BYTES]
        shown = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        yield f"{start:08x}  {row.hex(' '):<47}  {shown}"
    if len(value) > _PREVIEW_BYTES:
        yield f"… {len(value)} bytes in all"
