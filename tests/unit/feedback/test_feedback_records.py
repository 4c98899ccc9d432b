"""What is stored of a record: its identity, a digest of its content, and no secret."""

import random
from typing import Any

import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from waymesh.feedback.v1.delivery_pb2 import DeliveryOutcome
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, OutcomeStatus
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind

from services.feedback.outcome_rows import first_places, outcome_row
from services.feedback.records import DELIVERIES, SIGNALS, first_of_each, row
from services.mesh.feedback.outcome import without_secrets
from services.mesh.feedback.signals import without_secrets as signal_without_secrets

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)
payloads = st.dictionaries(names, plain, max_size=4)


def at(seconds: int) -> Timestamp:
    return Timestamp(seconds=seconds)


def event(**changes: Any) -> OutcomeEvent:
    made = OutcomeEvent(
        event_id="event", run_id="run", agent_name="agent", action_type="act", timestamp=at(1_700_000_000),
        status=OutcomeStatus.OUTCOME_STATUS_SUCCESS,
    )  # fmt: skip
    for name, value in changes.items():
        if isinstance(value, dict):
            getattr(made, name).update(value)
        else:
            setattr(made, name, value)
    return made


@given(st.dictionaries(names, names, max_size=8), st.randoms())
def test_the_order_in_which_a_map_was_filled_does_not_change_the_digest(
    labels: dict[str, str], order: random.Random
) -> None:
    shuffled = list(labels.items())
    order.shuffle(shuffled)
    first = Signal(signal_id="s", timestamp=at(1), labels=labels)
    second = Signal(signal_id="s", timestamp=at(1), labels=dict(shuffled))
    assert row(SIGNALS, first) == row(SIGNALS, second)


@given(payloads, payloads)
def test_digests_are_equal_exactly_if_contents_are(one: dict[str, Any], other: dict[str, Any]) -> None:
    first, second = event(input=one), event(input=other)
    assert (outcome_row(first).digest == outcome_row(second).digest) == (first == second)


def test_a_digest_outlives_the_wire() -> None:
    made = event(input={"a": 1, "b": [1, {"c": None}]}, error_message="late")
    again = OutcomeEvent.FromString(made.SerializeToString())
    assert outcome_row(made) == outcome_row(again)


def test_the_columns_are_what_lists_are_filtered_by() -> None:
    delivery = row(
        DELIVERIES, DeliveryOutcome(outcome_id="o", order_id="a", driver_id="d", delivered_at=at(9))
    )
    assert (delivery.id, delivery.at.timestamp(), delivery.values) == ("o", 9, ("a", "d"))
    signal = row(
        SIGNALS,
        Signal(
            signal_id="s", kind=SignalKind.SIGNAL_KIND_GPS_ANOMALY, source="eta", subject="d", active=True
        ),
    )
    assert signal.values == (SignalKind.SIGNAL_KIND_GPS_ANOMALY, "eta", "d", True)


@given(st.lists(st.sampled_from("abc"), max_size=12))
def test_of_an_id_that_comes_several_times_the_first_one_counts(ids: list[str]) -> None:
    outcomes = [outcome_row(event(event_id=one, duration_ms=float(n))) for n, one in enumerate(ids)]
    assert first_places(outcomes) == {one: ids.index(one) for one in ids}
    signals = [row(SIGNALS, Signal(signal_id=one, message=str(n))) for n, one in enumerate(ids)]
    assert first_of_each(signals) == {one: ids.index(one) for one in ids}


SECRET_KEYS = ["password", "api_key", "Authorization", "user.token", "ssn", "clientSecret"]


@given(st.sampled_from(SECRET_KEYS), st.sampled_from(["input", "output", "metadata"]), payloads)
def test_what_stands_under_a_secret_name_is_never_stored(key: str, field: str, rest: dict[str, Any]) -> None:
    nested = {"outer": [{key: "s3cret-value"}], key: {"deep": "s3cret-value"}, **rest}
    stored = outcome_row(without_secrets(event(**{field: nested})))
    assert (b"s3cret-value" in stored.body) == ("s3cret-value" in str(rest))


@pytest.mark.parametrize("field", ["error_message", "stack_trace"])
def test_secrets_in_texts_are_masked_by_their_form(field: str) -> None:
    text = "connect postgres://waymesh:s3cret-value@db/x failed; Authorization: Bearer s3cret-value-2"
    clean = getattr(without_secrets(event(**{field: text})), field)
    assert "s3cret" not in clean
    assert clean.startswith("connect postgres://waymesh:")


@given(payloads, st.sampled_from([*SECRET_KEYS, "note"]))
def test_redaction_done_again_changes_nothing_more(payload: dict[str, Any], key: str) -> None:
    once = without_secrets(event(input={**payload, key: "x"}, error_message="token=abc"))
    assert without_secrets(once) == once


@given(payloads)
def test_redaction_leaves_the_callers_event_and_all_that_is_no_secret_as_they_were(
    payload: dict[str, Any],
) -> None:
    given_ = event(input={"password": "x"}, output=payload, duration_ms=2.5, error_message="too late")
    before = OutcomeEvent.FromString(given_.SerializeToString())
    clean = without_secrets(given_)
    assert given_ == before
    for name in ("input", "output"):
        given_.ClearField(name)
        clean.ClearField(name)
    assert clean == given_


def test_a_signal_is_stored_without_secrets_and_otherwise_as_it_was() -> None:
    plain = Signal(
        signal_id="token=x", kind=2, source="eta", subject="store", severity=3, message="it is away",
        labels={"check": "store", "tokens_used": "7"},
    )  # fmt: skip
    assert signal_without_secrets(plain) == plain
    told = Signal(
        signal_id="s",
        subject="postgres://u:s3cret@db/x",
        message="Authorization: Bearer s3cret-value",
        labels={
            "api_key": "s3cret",
            "dsn": "postgres://u:s3cret@db/x",
            "token=s3cret": "a",
            "note": "pwd=s3cret",
        },
    )
    clean = signal_without_secrets(told)
    assert "s3cret" not in str(clean)
    assert "s3cret" in str(told)
    assert len(clean.labels) == 4
    assert signal_without_secrets(clean) == clean


def test_absent_payloads_stay_absent() -> None:
    clean = without_secrets(event())
    assert not {"input", "output", "metadata", "errorMessage", "stackTrace"} & set(MessageToDict(clean))
