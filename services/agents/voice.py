"""The answer's text on its way to whoever watches, while a model is still writing it.

All that is sent belongs to one answer. A text may turn out not to be the answer after some of it was sent:
the model breaks off, goes on to ask for a tool, or writes what no answer may hold, such as a number that
nobody gave. Then nothing more is sent, and the run's result says that what was sent is to be thrown away.
"""

from collections.abc import Callable
from typing import Final

from services.agents.grounding import Grounds, Guard, Ungrounded
from services.agents.links import LONGEST, has_link
from services.agents.repeats import LEAST, Repeats

# A model that is about to ask for a tool often says so first. Held back where tools are offered; characters.
_PREAMBLE: Final = 160
# A longer text will not be the answer. In characters.
_MAX_CHARS: Final = 16_384
# Models write by the syllable; to read for numbers is worth its time for a few words. In characters.
_AT_ONCE: Final = 32
# What is held back is read again with what comes: this is the least that comes, as a share of it.
_NEW: Final = 0.5


class Voice:
    """One run's; `send` passes a piece of text on, None where nobody watches."""

    def __init__(self, send: Callable[[str], None] | None) -> None:
        self._send = send
        self._sent = ""
        self._over = send is None
        self._held = ""
        self._written, self._tail, self._gathered = 0, "", ""
        self._heard = 0
        self._hold = 0
        self._guard: Guard | None = None
        self._repeats = Repeats("")

    @property
    def wanted(self) -> bool:
        """Whether a model's text is worth having piece by piece."""
        return not self._over

    def begin(self, grounds: Grounds, *, tools_offered: bool, repeats: Repeats | None = None) -> None:
        """A model starts to write; its numbers have to be in `grounds`, and it may not repeat `repeats`."""
        self._guard = Guard(grounds)
        self._repeats = repeats or Repeats("")
        self._heard = 0
        self._held = ""
        self._written, self._tail, self._gathered = 0, "", ""
        self._hold = _PREAMBLE if tools_offered else 0

    def hear(self, piece: str) -> None:
        """The model has written this."""
        if self._over or self._guard is None:
            return
        self._heard += len(piece)
        if self._heard > _MAX_CHARS:
            self._drop()
            return
        self._gathered += piece
        if len(self._gathered) < max(_AT_ONCE, _NEW * self._guard.held):
            return
        piece, self._gathered = self._gathered, ""
        try:
            safe = self._guard.feed(piece)
        except Ungrounded:
            self._drop()
            return
        # What was looked through before is not looked through again, but for what a link may begin in.
        self._tail = self._tail[-LONGEST:] + safe
        self._written += len(safe)
        self._held += safe
        if has_link(self._tail) or self._repeats.within(self._tail[-2 * LEAST - len(safe) :]):
            self._drop()
        elif self._written > self._hold:
            self._tell()

    def restart(self) -> None:
        """What the model wrote so far counts no more; another answer begins."""
        if self._sent:
            self._over = True
        elif self._guard is not None:
            self._guard = self._guard.anew()
            self._heard = 0
            self._held = ""
            self._written, self._tail, self._gathered = 0, "", ""

    def end(self, answer: str | None) -> None:
        """The model has written all: the answer, or None if it is none."""
        if answer is None:
            self.restart()
            self._guard = None
            return
        if not self._over and self._guard is not None and answer.startswith(self._sent):
            self._held = answer[len(self._sent) :]
            self._tell()
        self._guard = None

    def streamed(self, answer: str) -> bool:
        """Whether what was sent is this answer, from its beginning to its end."""
        return bool(self._sent) and self._sent == answer

    def _drop(self) -> None:
        """This text will not be the answer."""
        self._over = self._over or bool(self._sent)
        self._guard = None

    def _tell(self) -> None:
        if self._held and self._send is not None:
            self._send(self._held)
            self._sent += self._held
            self._held = ""
