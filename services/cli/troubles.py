"""What the services of a mesh say is wrong around them: each cause once, and once more when it is over.

A log line that carries the field `trouble` names a dependency that cannot be used, as `kafka.missing`; one
with `over` and the same name ends it. Every service says so of itself.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from services.cli.runner import State

Tell = Callable[[str, str, str], None]
"""Given what is in trouble, its state, and the words of the service."""

# What every line that matters holds; looking for it costs less than reading each line as JSON.
_MARKS: Final = (b'"trouble": ', b'"over": ')


@dataclass(slots=True)
class _Cause:
    words: dict[str, str] = field(default_factory=dict)
    """What each service that has it says of it."""
    told: set[str] = field(default_factory=set)


class Troubles:
    """Hears the lines of all services; tells of each cause by `tell`."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._causes: dict[str, _Cause] = {}

    @property
    def lasting(self) -> list[tuple[str, str]]:
        """What is in trouble now, and in what words; each words once."""
        found = {
            (_place(name), said): None for name, one in self._causes.items() for said in one.words.values()
        }
        return list(found)

    def hear(self, service: str, line: bytes) -> None:
        """A line of a service's log."""
        if not any(mark in line for mark in _MARKS):
            return
        entry = _entry(line)
        fields = entry.get("fields")
        if not isinstance(fields, dict):
            return
        said = str(entry.get("message", ""))
        if (name := fields.get("trouble")) is not None:
            self._begin(str(name), service, said)
        elif (name := fields.get("over")) is not None:
            self._end(str(name), service, said)

    def forget(self, service: str) -> None:
        """It begins anew: what is still wrong it will say again."""
        for name, cause in list(self._causes.items()):
            cause.words.pop(service, None)
            if not cause.words:
                del self._causes[name]

    def _begin(self, name: str, service: str, said: str) -> None:
        cause = self._causes.setdefault(name, _Cause())
        cause.words[service] = said
        if said not in cause.told:
            cause.told.add(said)
            self._tell(_place(name), State.FAILING, said)

    def _end(self, name: str, service: str, said: str) -> None:
        cause = self._causes.get(name)
        if cause is None or cause.words.pop(service, None) is None or cause.words:
            return
        del self._causes[name]
        self._tell(_place(name), State.READY, said)


def _place(name: str) -> str:
    return name.partition(".")[0]


def _entry(line: bytes) -> Mapping[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        return {}
    return entry if isinstance(entry, dict) else {}
