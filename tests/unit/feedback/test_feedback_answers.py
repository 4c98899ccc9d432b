"""What a write is told: how many are new, which were there before, which contradict what is there."""

from collections.abc import Sequence
from typing import Any

import pytest
from google.rpc.code_pb2 import ALREADY_EXISTS
from hypothesis import given
from hypothesis import strategies as st
from waymesh.feedback.v1 import feedback_service_pb2 as pb
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.feedback.service import FeedbackServicer
from services.feedback.store import Fate
from services.mesh.errors import AlreadyExists, from_status


class Intake:
    """Answers as the test says."""

    def __init__(self, fates: Sequence[Fate]) -> None:
        self._fates = fates

    async def outcomes(self, _events: Sequence[OutcomeEvent], _sender: str) -> Sequence[Fate]:
        return self._fates


async def answer(fates: Sequence[Fate]) -> Any:
    nothing: Any = None
    intake: Any = Intake(fates)
    events = [OutcomeEvent(event_id=f"event-{n}") for n in range(len(fates))]
    return await FeedbackServicer(nothing, intake, windows=(), rules=()).RecordOutcomes(
        pb.RecordOutcomesRequest(events=events), None
    )


async def told(fates: Sequence[Fate]) -> None:
    if fates == [Fate.CONFLICT]:
        with pytest.raises(AlreadyExists) as refused:
            await answer(fates)
        assert refused.value.metadata == {"id": "event-0"}
        assert refused.value.reason_name == "CONFLICTING_CONTENT"
        return
    response = await answer(fates)
    assert response.stored == list(fates).count(Fate.STORED)
    assert response.duplicate == (set(fates) == {Fate.DUPLICATE})
    assert [(one.index, one.id) for one in response.results] == [(n, f"event-{n}") for n in range(len(fates))]
    for fate, result in zip(fates, response.results, strict=True):
        assert result.duplicate == (fate is Fate.DUPLICATE)
        assert (result.error.code == ALREADY_EXISTS) == (fate is Fate.CONFLICT)
        if fate is Fate.CONFLICT:
            assert from_status(result.error).metadata == {"id": result.id}


@given(st.lists(st.sampled_from(Fate), min_size=1, max_size=6))
def test_every_item_has_its_own_result_and_one_alone_fails_the_call(fates: list[Fate]) -> None:
    coroutine = told(fates)
    with pytest.raises(StopIteration):  # it waits for nothing
        coroutine.send(None)
