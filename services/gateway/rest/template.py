"""Path templates such as `/api/agents/{agent_id}/versions`.

Of the grammar of google/api/http.proto what a path needs whose variables are segments: texts and `{field}`.
What else it knows (wildcards, patterns within variables, verbs) is refused when contracts are loaded.
"""

import re
from dataclasses import dataclass
from typing import Final

# pchar of RFC 3986 without the percent sign, the colon of verbs and what variables are written with.
_TEXT: Final = re.compile(r"[A-Za-z0-9\-._~!$&'()+,;=@]+")
_VARIABLE: Final = re.compile(r"\{([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*)(?:=\*)?\}")


@dataclass(frozen=True, slots=True)
class Segment:
    """One piece between slashes: a text, or the path of the field that it fills."""

    text: str = ""
    field: str = ""


@dataclass(frozen=True, slots=True)
class Template:
    """A path of segments. `text` is how documents and metrics show it."""

    text: str
    segments: tuple[Segment, ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """What the path fills, in its order."""
        return tuple(segment.field for segment in self.segments if segment.field)


def parse(text: str) -> Template:
    """Raises ValueError for what cannot be served."""
    if not text.startswith("/"):
        raise ValueError("it must begin with a slash")
    segments = tuple(_segment(piece) for piece in text[1:].split("/"))
    fields = [segment.field for segment in segments if segment.field]
    if len(set(fields)) < len(fields):
        raise ValueError("a field stands in it twice")
    shown = "".join("/" + (segment.text or f"{{{segment.field}}}") for segment in segments)
    return Template(shown, segments)


def _segment(piece: str) -> Segment:
    variable = _VARIABLE.fullmatch(piece)
    if variable is not None:
        return Segment(field=variable[1])
    if _TEXT.fullmatch(piece) is None:
        raise ValueError(f"'{piece}' is neither a plain text nor a field in braces")
    return Segment(text=piece)
