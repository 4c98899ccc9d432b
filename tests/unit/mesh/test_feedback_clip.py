"""The largest input takes the loop no longer than a small one, and no part of a secret is left at a cut."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.mesh.chain.server.validation import check
from services.mesh.feedback import FeedbackPipeline
from services.mesh.feedback.clip import LEFT_OUT, Clip, clip_text
from services.mesh.feedback.outcome import SUCCESS, outcome
from services.mesh.feedback.spool import Spool
from services.mesh.redact import redact

BOUND = 65_536


def recorded(**given: Any) -> OutcomeEvent:
    event = outcome(
        agent_name="a", agent_type="b", action_type="c",
        started=datetime.now(UTC), duration_ms=1.0, status=SUCCESS, **given,
    )  # fmt: skip
    check(event)
    return event


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**50), 2**50) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=30,
)


@given(json)
def test_what_is_small_stays_as_it_is(value: Any) -> None:
    clip = Clip()
    assert redact(clip(value)) == redact(value)
    assert not clip.left_out


class Endless(Sequence[int]):
    """Counts what is asked of it."""

    asked = 0

    def __getitem__(self, place: Any) -> Any:
        self.asked += 1
        return place

    def __len__(self) -> int:
        return 1 << 60


class Wide(Mapping[str, Any]):
    """More entries than anybody can look at."""

    def __getitem__(self, key: str) -> Any:
        return key

    def __iter__(self) -> Iterator[str]:
        return iter(f"key {number}" for number in range(1 << 60))

    def __len__(self) -> int:
        return 1 << 60


@dataclasses.dataclass
class Report:
    rows: list[int]


@pytest.mark.parametrize(
    "value",
    [
        Endless(), Wide(), range(1 << 60), "x" * (2 << 20), ["y" * 100] * 100_000, {"a": {"b": Wide()}},
        [[[0] * 100] * 100] * 100, Report([1] * 10**6), {"z" * (2 << 20): 1}, list(range(10**6)),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_large_value_is_recorded_as_far_as_it_is_looked_at_and_says_so(value: Any) -> None:
    event = recorded(input_data=value, output=value)
    assert event.ByteSize() < BOUND
    assert LEFT_OUT in str(event.input)
    assert list(event.metadata["clipped"]) == ["input", "output"]


def test_no_more_is_looked_at_than_is_kept() -> None:
    value = Endless()
    recorded(input_data=value)
    assert value.asked < 1_000


def test_errors_of_any_length_are_recorded_with_their_end() -> None:
    try:
        raise ValueError("why " * 10**6 + "the end")
    except ValueError as error:
        event = recorded(error=error)
    assert event.ByteSize() < BOUND
    assert event.error_message.startswith("why why")
    assert event.stack_trace.rstrip().endswith("the end")


def test_an_error_deep_in_recursion_is_recorded() -> None:
    def deeper(number: int) -> None:
        if not number:
            raise ValueError("the bottom")
        deeper(number - 1)

    with pytest.raises(ValueError, match="the bottom") as raised:
        deeper(400)
    assert "the bottom" in recorded(error=raised.value).stack_trace


SECRETS = [
    "password=hunter2hunter2hunter2",
    "postgres://user:hunter2hunter2@db.example/x",
    "Bearer hunter2hunter2hunter2hunter2",
    "-----BEGIN PRIVATE KEY-----" + "hunter2" * 200 + "-----END PRIVATE KEY-----",
]


@given(st.sampled_from(SECRETS), st.integers(0, 10_000), st.integers(0, 10_000), st.data())
def test_no_part_of_a_secret_is_left_at_a_cut(
    secret: str, before: int, after: int, data: st.DataObject
) -> None:
    text = "." * before + " " + secret + " " + "." * after
    bound = data.draw(st.integers(1, before + len(secret)))
    cut = clip_text(text, bound)
    assert len(cut) <= bound
    assert "hunter2" not in str(redact(cut))
    bound = data.draw(st.integers(1, after + len(secret)))
    cut = clip_text(text, bound, from_end=True)
    assert len(cut) <= bound
    assert "hunter2" not in str(redact(cut))


async def test_an_event_of_others_that_is_too_large_is_recorded_without_its_payloads(tmp_path: Path) -> None:
    async def send(_events: object) -> None: ...

    pipeline = FeedbackPipeline(send=send, spool=Spool(tmp_path))
    event = recorded(tags=["tag"], metadata={"kept": False})
    event.output.update({"text": "x" * (2 << 20)})
    event.stack_trace = "t" * 60_000
    receipt = pipeline.record_outcome(event)
    assert receipt.event.ByteSize() < BOUND
    assert (receipt.event.event_id, list(receipt.event.tags)) == (event.event_id, ["tag"])
    assert receipt.event.timestamp == event.timestamp
    assert list(receipt.event.metadata["clipped"]) == ["output", "metadata"]
    check(receipt.event)
    await pipeline.close()
