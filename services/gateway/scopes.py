"""What a key may be used for: patterns of tasks, and the word for operators."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from services.mesh.principal import ADMIN

if TYPE_CHECKING:
    from services.gateway.rpcs import Rpc

ALL: Final = "*"
DEFAULT: Final = (ALL,)
# Of the key an operator begins with: who has it has set up the mesh.
FIRST: Final = (ALL, ADMIN)
MOST: Final = 64
# As the table's rule has it.
_PATTERN: Final = re.compile(r"[a-z0-9_*]{1,64}")
_NEAR: Final = 3


@dataclass(frozen=True, slots=True)
class Scopes:
    """The scopes of one key. `*` stands for any letters of a task's name; none of them includes `admin`."""

    patterns: tuple[str, ...] = DEFAULT
    _everything: bool = field(init=False, repr=False, compare=False)
    _names: frozenset[str] = field(init=False, repr=False, compare=False)
    _wild: tuple[re.Pattern[str], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_everything", ALL in self.patterns)
        object.__setattr__(self, "_names", frozenset(self.patterns))
        wild = tuple(_compiled(each) for each in self.patterns if ALL in each)
        object.__setattr__(self, "_wild", wild)

    def allows(self, name: str, *, admin: bool = False) -> bool:
        """Whether the task, or the RPC whose snake_case name this is, may be called."""
        if admin:
            return ADMIN in self._names
        return self._everything or name in self._names or any(each.fullmatch(name) for each in self._wild)


def is_pattern(given: str) -> bool:
    """Whether this may be a scope at all."""
    return _PATTERN.fullmatch(given) is not None


def faults(patterns: Sequence[str], rpcs: "Iterable[Rpc]") -> list[str]:
    """What is wrong with scopes that somebody wants to give, one line each: above all, names of nothing."""
    rpcs = list(rpcs)
    open_to_all = {rpc.scope for rpc in rpcs if not rpc.admin}
    for_operators = {rpc.scope for rpc in rpcs if rpc.admin}
    found = []
    for pattern in patterns:
        if pattern == ADMIN:
            continue
        if not is_pattern(pattern):
            found.append(
                f"'{pattern[:64]}' is no scope: small letters, digits, '_' and '*', at most 64 of them"
            )
            continue
        named = _compiled(pattern)
        if any(named.fullmatch(name) for name in open_to_all):
            continue
        if any(named.fullmatch(name) for name in for_operators):
            found.append(f"'{pattern}' is for operators alone: give the scope {ADMIN}")
            continue
        near = get_close_matches(pattern.replace(ALL, ""), [*open_to_all, ADMIN], _NEAR)
        hint = f"; near it are {', '.join(near)}" if near else ""
        found.append(f"no task has a name like '{pattern}'{hint} (`keys scopes` lists them all)")
    if not patterns or len(patterns) > MOST:
        found.append(f"a key has 1 to {MOST} scopes")
    return found


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile("[a-z0-9_]*".join(re.escape(part) for part in pattern.split(ALL)))
