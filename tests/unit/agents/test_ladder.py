"""The rungs of the ladder: a fault of ours costs nobody the engines' words; two ways down are told as one."""

import asyncio
import contextlib
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from waymesh.mesh.v1.degradation_pb2 import Degradation

from services.agents.ladder import ENGINE as BY_ENGINE
from services.agents.ladder import Ladder, Words, worse
from services.agents.loop import Brief, Loop, NoAnswer, Setting
from services.agents.voice import Voice
from services.mesh.errors import Unavailable

ENGINE = Degradation(source="eta.prior", reason="no model yet")
WORDS = Degradation(source="agents.engine", reason="no model is configured")


def test_the_first_names_the_source_and_both_their_reasons() -> None:
    both = worse(ENGINE, WORDS)

    assert both is not None
    assert both.source == "eta.prior"
    assert both.reason == "no model yet; agents.engine: no model is configured"


def test_one_alone_stays_as_it_is() -> None:
    assert worse(None, WORDS) is WORDS
    assert worse(ENGINE, None) is ENGINE
    assert worse(Degradation(), WORDS) is WORDS
    assert worse(None, None) is None


class Failing:
    """A conversation with a model that ends in an error."""

    available = True

    def __init__(self, error: BaseException) -> None:
        self._error = error

    async def run(self, brief: Brief, setting: Setting) -> Any:
        raise self._error


async def climbed(error: BaseException) -> Words:
    setting = cast(Setting, SimpleNamespace(voice=Voice(None)))

    async def engine() -> str:
        return "the engines' words"

    ladder = Ladder(cast(Loop, Failing(error)))
    return await ladder.climb(
        Brief("ask", "?"), setting, engine, engine_s=0.1, slot=lambda: contextlib.nullcontext()
    )


@pytest.mark.parametrize(
    "error", [KeyError("x"), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no"), Unavailable("x")]
)
async def test_a_fault_of_ours_is_logged_and_answered_by_the_engines(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        words = await climbed(error)
    assert words.text == "the engines' words"
    assert words.degradation == Degradation(source=BY_ENGINE, reason="internal error")
    assert caplog.records[0].exc_info is not None


async def test_no_answer_of_a_model_has_its_own_reason() -> None:
    words = await climbed(NoAnswer("gpt-x: rate limited"))
    assert words.degradation == Degradation(source=BY_ENGINE, reason="gpt-x: rate limited")


async def test_who_goes_away_is_answered_no_more() -> None:
    with pytest.raises(asyncio.CancelledError):
        await climbed(asyncio.CancelledError())
