"""From the best answer to the last: a model, its fallbacks, then words of our own for what the engines say.

Whoever climbs down says so (`Degradation`), and each rung leaves enough of the caller's time for the next.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final

from waymesh.mesh.v1.degradation_pb2 import Degradation

from services.agents.loop import Brief, Loop, NoAnswer, Setting
from services.mesh import deadline
from services.mesh.errors import ResourceExhausted

_log = logging.getLogger(__name__)

ENGINE: Final = "agents.engine"
FALLBACK_MODEL: Final = "agents.fallback_model"
NO_MODEL: Final = "no model is configured"
NO_TIME: Final = "too little time for a model"
FAULT: Final = "internal error"

# No model answers in less; who has no more than this gets the engines' words at once. In seconds.
_LEAST_S: Final = 0.2
# What is kept back for recording and sending the answer. In seconds.
_FINISH_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Words:
    """An answer in words. `output`: in the agent's shape, if a model gave it."""

    text: str
    output: Any = None
    degradation: Degradation | None = None


class Ladder:
    """One object serves all runs."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    async def climb(
        self,
        brief: Brief,
        setting: Setting,
        engine: Callable[[], Awaitable[str]],
        *,
        engine_s: float,
        slot: Callable[[], AbstractContextManager[None]],
    ) -> Words:
        """An answer. `engine` words it without a model and takes at most `engine_s` of the caller's time.

        `slot` is a place among the runs that may ask a model at once; it raises ResourceExhausted if there is
        none. Raises what `engine` raises.
        """
        reason = NO_MODEL
        if self._loop.available:
            left_s = deadline.remaining()
            given_s = None if left_s is None else left_s - engine_s - _FINISH_S
            if given_s is not None and given_s < _LEAST_S:
                reason = NO_TIME
            else:
                try:
                    with slot():
                        return await self._ask(brief, setting, given_s)
                except ResourceExhausted as error:
                    reason = error.message
                except NoAnswer as failed:
                    reason = failed.reason
        text = await engine()
        return Words(text, degradation=Degradation(source=ENGINE, reason=reason))

    async def _ask(self, brief: Brief, setting: Setting, given_s: float | None) -> Words:
        try:
            with deadline.budget(given_s):
                # The budget bounds each call; this bounds what lies between them, too.
                async with asyncio.timeout(given_s):
                    spoken = await self._loop.run(brief, setting)
        except TimeoutError:
            setting.voice.end(None)
            raise NoAnswer("the models took too long") from None
        except NoAnswer:
            raise
        except Exception as error:
            # Whatever is wrong with what a model said or with us: the engines have an answer all the same.
            _log.exception("a model's answer could not be dealt with")
            setting.voice.end(None)
            raise NoAnswer(FAULT) from error
        degradation = None
        if spoken.fallback:
            degradation = Degradation(source=FALLBACK_MODEL, reason=spoken.fallback)
        return Words(spoken.text, spoken.output, degradation)


def worse(first: Degradation | None, second: Degradation | None) -> Degradation | None:
    """Both in one: what a caller has to know of an answer that is second best in two ways."""
    if first is None or not first.source:
        return second
    if second is None or not second.source:
        return first
    return Degradation(source=first.source, reason=f"{first.reason}; {second.source}: {second.reason}")
