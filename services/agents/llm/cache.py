"""Answers that were given before to the very same question."""

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from services.agents.llm.reply import ToolUse
from services.mesh.deadline import Clock

# What an entry takes besides its text.
_ENTRY_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer as it is kept: a value read from its text anew each time cannot be changed for others."""

    text: str
    tool_uses: tuple[ToolUse, ...]
    finish_reason: str

    @property
    def size_bytes(self) -> int:
        """About what it takes in memory."""
        uses = sum(len(use.id) + len(use.name) + len(use.arguments) for use in self.tool_uses)
        return _ENTRY_BYTES + len(self.text.encode(errors="replace")) + uses


class Cache:
    """The least recently used go when there are too many or they take too much; all go after `ttl_s`."""

    def __init__(self, entries: int, size_bytes: int, ttl_s: float, clock: Clock = time.monotonic) -> None:
        self._entries = entries
        self._size_bytes = size_bytes
        self._ttl_s = ttl_s
        self._clock = clock
        self._kept: OrderedDict[bytes, tuple[Kept, float]] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> Kept | None:
        """The answer under a key, if it is not too old."""
        found = self._kept.get(key)
        if found is None:
            return None
        if found[1] <= self._clock():
            self._drop(key)
            return None
        self._kept.move_to_end(key)
        return found[0]

    def put(self, key: bytes, answer: Kept) -> None:
        """Keeps an answer, unless it is too large to be kept beside others."""
        if key in self._kept:
            self._drop(key)
        size = answer.size_bytes
        if self._entries <= 0 or size > self._size_bytes:
            return
        self._kept[key] = (answer, self._clock() + self._ttl_s)
        self.bytes += size
        while len(self._kept) > self._entries or self.bytes > self._size_bytes:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: bytes) -> None:
        self.bytes -= self._kept.pop(key)[0].size_bytes


def key_of(base_url: str, scope: str, body: bytes) -> bytes:
    """Everything that matters: whose question, to which server, and all that it is asked.

    `body` holds model, messages, tools, schema, temperature and limit. The lengths keep the parts apart.
    """
    made = hashlib.blake2b(digest_size=32)
    for part in (base_url.encode(), scope.encode(errors="replace"), body):
        made.update(len(part).to_bytes(8, "big"))
        made.update(part)
    return made.digest()
