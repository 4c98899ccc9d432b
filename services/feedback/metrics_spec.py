"""Which windows there are, as the setting says. Times are in microseconds."""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

SECOND: Final = 1_000_000
# No window is longer.
LONGEST: Final = timedelta(days=1)

_WINDOW: Final = re.compile(r"([1-9]\d{0,5})s(?:/([1-9]\d{0,5})s)?")
# How many windows of one name may overlap.
_MOST_AT_A_TIME: Final = 60


@dataclass(frozen=True, slots=True)
class WindowSpec:
    """Windows of one length: one begins every `step` microseconds, at whole multiples of it."""

    name: str
    size: int
    step: int

    @property
    def hops(self) -> bool:
        """Whether they overlap."""
        return self.step < self.size

    def starts(self, start: int, end: int) -> range:
        """Starts of the windows that share any time with `start` to before `end`."""
        first = ((start - self.size) // self.step + 1) * self.step
        return range(first, end, self.step)


def parse_windows(text: str) -> tuple[WindowSpec, ...]:
    """The windows of a setting such as `60s,300s/60s`: lengths, and steps where they are not the length.

    Raises ValueError that says what is allowed.
    """
    specs: list[WindowSpec] = []
    for part in text.split(","):
        found = _WINDOW.fullmatch(part.strip())
        if found is None:
            raise ValueError(
                "lengths such as 60s, or with a step such as 300s/60s, with commas between them; "
                f"'{part.strip()}' is neither"
            )
        size, step = int(found[1]), int(found[2] or found[1])
        if not step <= size <= min(step * _MOST_AT_A_TIME, LONGEST.total_seconds()):
            raise ValueError(
                "windows of at most a day (86400s), with steps no longer than they are and at most "
                f"{_MOST_AT_A_TIME} of a name at a time; '{part.strip()}' is none"
            )
        name = f"{size}s" if size == step else f"{size}s/{step}s"
        if name not in {spec.name for spec in specs}:
            specs.append(WindowSpec(name, size * SECOND, step * SECOND))
    return tuple(specs)
