"""What an event looks like on its way, and when a stream is begun again."""

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_BREAKER_OPEN, ERROR_REASON_DRAINING

from services.gateway.events import event
from services.gateway.resume import Resume
from services.mesh import deadline, json_codec
from services.mesh.errors import Internal, MeshError, NotFound, Unavailable
from services.mesh.retry import RetryPolicy


@settings(deadline=None)
@given(data=st.recursive(st.none() | st.text() | st.integers(), st.lists), cursor=st.text(max_size=20))
def test_an_event_is_whole_whatever_is_in_it(data: object, cursor: str) -> None:
    sent = event("token", json_codec.dumps(data), cursor)
    assert sent.endswith(b"\n\n")
    lines = sent[:-2].split(b"\n")
    assert b"\r" not in sent
    names = [line.partition(b": ")[0] for line in lines]
    assert names in ([b"id", b"event", b"data"], [b"event", b"data"])
    assert json.loads(lines[-1].partition(b": ")[2]) == data
    if names[0] == b"id":
        assert lines[0].partition(b": ")[2].decode() == cursor


def resume(**policy: float) -> Resume:
    return Resume(RetryPolicy(**policy), random.Random(1))  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [NotFound("x"), Internal("x")])
def test_only_what_may_pass_is_tried_again(error: MeshError) -> None:
    assert resume().wait_s(error, 1) is None


def test_three_tries_without_an_event_are_enough() -> None:
    waits = [resume().wait_s(Unavailable("x"), n) for n in (1, 2, 3, 4)]
    assert None not in waits[:3]
    assert waits[3] is None


def test_a_stopping_server_has_its_successor_already_and_costs_no_token() -> None:
    going = Unavailable("x", reason=ERROR_REASON_DRAINING, retry_after_s=1.0)
    going.from_peer = True
    tries = resume(tokens=0.0)
    wait_s = tries.wait_s(going, 1)
    assert wait_s is not None
    assert wait_s <= 0.05
    assert tries.wait_s(Unavailable("x"), 1) is None


def test_a_breaker_and_a_server_say_how_long() -> None:
    opened = Unavailable("x", reason=ERROR_REASON_BREAKER_OPEN, retry_after_s=7.0)
    busy = Unavailable("x", retry_after_s=3.0)
    busy.from_peer = True
    assert (resume().wait_s(opened, 1), resume().wait_s(busy, 1)) == (7.0, 3.0)
    with deadline.budget(5.0):
        assert (resume().wait_s(opened, 1), resume().wait_s(busy, 1)) == (None, 3.0)


def test_in_an_outage_the_tokens_run_out_and_streams_that_begin_bring_them_back() -> None:
    tries = resume(tokens=2.0, ratio=0.5)
    assert [tries.wait_s(Unavailable("x"), 1) is None for _ in range(3)] == [False, False, True]
    for _ in range(2):
        tries.success()
    assert tries.wait_s(Unavailable("x"), 1) is not None
