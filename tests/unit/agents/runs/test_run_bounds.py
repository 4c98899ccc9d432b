"""What is kept of a run: no secrets, no more than there is room for, and a mark where anything is missing."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st
from waymesh.agent.v1 import run_pb2 as pb

from services.agents.runs import bounds
from services.agents.runs.plain import is_plain
from services.mesh.redact import redact

PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-1_000, 1_000).map(float), st.text(max_size=300)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=20), inner, max_size=6)
    ),
    max_leaves=40,
)


def struct(value: dict[str, Any]) -> Struct:
    made = Struct()
    made.update(value)
    return made


@given(st.dictionaries(st.text(max_size=20), PLAIN, max_size=8), st.integers(64, 4_096))
def test_whatever_it_is_it_fits(value: dict[str, Any], most: int) -> None:
    assert bounds.kept_struct(struct(value), most).ByteSize() <= most


def test_what_fits_and_is_no_secret_stays_as_it_is() -> None:
    given = struct({"a": 1, "b": [True, None, {"c": "d"}], "e": "f", "g": {}, "h": []})
    assert bounds.kept_struct(given) == given


def test_secrets_are_left_out_also_where_a_text_is_cut() -> None:
    kept = str(
        bounds.kept_struct(struct({"password": "hunter2", "note": "Bearer abcdefghijkl" + " x" * 9_000}))
    )
    assert "hunter2" not in kept
    assert "abcdefghijkl" not in kept
    assert bounds.CUT in kept


@pytest.mark.parametrize(
    "value", [{"a": "é" * 9_000}, {"n": [1.0] * 9_000}, {str(n): n for n in range(9_000)}]
)
def test_what_is_left_out_is_marked(value: dict[str, Any]) -> None:
    kept = bounds.kept_struct(struct(value))
    assert bounds.CUT in str(kept)
    # No more than has to go: at least a quarter of the room is used.
    assert bounds.MAX_STEP_BYTES // 4 <= kept.ByteSize() <= bounds.MAX_STEP_BYTES


@given(st.text(max_size=400), st.integers(40, 300))
def test_a_text_fits_and_can_be_stored(text: str, most: int) -> None:
    kept = bounds.kept_text(text, most)
    assert len(kept.encode()) <= most
    assert "\0" not in kept


SECRETS = st.sampled_from(
    [
        "password",
        "api_key",
        "token",
        "tokens",
        "pin",
        "name",
        "key",
        "value",
        "--token",
        "x: y",
        "a=b",
        "sk-" + "a" * 20,
    ]
)


@given(
    st.recursive(
        st.one_of(
            st.none(), st.floats(-1e13, 1e13), SECRETS, st.sampled_from(["2026-03-01T10:00:00Z", "placed"])
        ),
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(SECRETS | st.just("note"), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_what_is_plain_at_a_glance_is_not_changed_by_looking_closely(value: Any) -> None:
    given = struct({"it": value})
    if is_plain(given):
        closely = Struct()
        closely.update(redact(json_format.MessageToDict(given)))
        assert closely == given


@pytest.mark.parametrize(
    "value",
    [
        {"orders": [{"order_id": "order_1", "placed_at": "2026-03-01T10:00:00.123Z", "lat": -23.55}]},
        {"note": "Leave it at the door, ring twice: thanks", "tokens": 12.0, "name": "Ana"},
    ],
)
def test_everyday_payloads_are_plain(value: dict[str, Any]) -> None:
    assert is_plain(struct(value))
    assert bounds.kept_struct(given := struct(value)) is given


@pytest.mark.parametrize(
    "value",
    [
        {"password": "x"},
        {"argv": ["--token", "x"]},
        {"name": "password", "value": "x"},
        {"n": "Bearer abcdefghijk"},
    ],
)
def test_what_may_be_secret_is_not_plain(value: dict[str, Any]) -> None:
    assert not is_plain(struct(value))


def test_an_answer_is_kept_whole_or_marked() -> None:
    assert bounds.kept_text("It takes 12 minutes.") == "It takes 12 minutes."
    assert bounds.kept_text("é" * bounds.MAX_ANSWER_BYTES).endswith(bounds.CUT)


def test_steps_are_kept_up_to_a_number_and_each_within_bounds() -> None:
    large = pb.RunStep(step=1, kind=pb.STEP_KIND_TOOL, name="get_order")
    large.result.update({"text": "x" * 3 * bounds.MAX_STEP_BYTES})
    kept = pb.Run.FromString(bounds.kept_steps([large] * (bounds.MAX_STEPS + 5)))
    assert len(kept.steps) == bounds.MAX_STEPS
    assert all(step.result.ByteSize() <= bounds.MAX_STEP_BYTES for step in kept.steps)
    assert large.result["text"] == "x" * 3 * bounds.MAX_STEP_BYTES
