"""Names come back in alerts and on terminals: they can be seen there, and do nothing to them."""

from datetime import UTC, datetime
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from waymesh.feedback.v1.alert_pb2 import SilenceAlertRequest
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent, Severity
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind

from services.mesh.chain.server.validation import check
from services.mesh.errors import InvalidArgument
from services.mesh.feedback.names import clean_name, is_name
from services.mesh.feedback.outcome import SUCCESS, Links, fit_to_record, put_names_right
from services.mesh.feedback.outcome import outcome as made

# Of ASCII, of Latin 1, and those that turn the direction of what follows.
CONTROLS = [chr(n) for n in (1, 9, 10, 0x1B, 0x7F, 0x85, 0x9B, 0x61C, 0x200E, 0x202A, 0x202E, 0x2066, 0x2069)]
BLANKS = [" ", "  ", "\u00a0", "\u2003", "\u200b", "\u3000 ", "\ufeff"]
ODD = "a" + "".join(CONTROLS) + "".join(set("".join(BLANKS)))
NAMES = ["eta", "a b", " a", "ä", "速達", "\u200dx", "عنوان", "🚚", "a\u00a0b", "\u2065", "\u202f-"]


OUTCOME_NAMES = [
    "event_id", "run_id", "agent_name", "agent_type", "action_type", "error_type", "correlation_id",
    "workflow_id", "parent_event_id",
]  # fmt: skip


def silence(author: str) -> SilenceAlertRequest:
    return SilenceAlertRequest(alert_key="error_rate/eta", duration_s=1, author=author)


def signal(source: str, subject: str = "driver") -> Signal:
    return Signal(
        signal_id="s",
        kind=SignalKind.SIGNAL_KIND_GPS_ANOMALY,
        source=source,
        subject=subject,
        severity=Severity.SEVERITY_INFO,
        timestamp=Timestamp(seconds=1),
    )


def outcome(**changes: Any) -> OutcomeEvent:
    """An everyday outcome, changed."""
    made = {
        "event_id": "event", "run_id": "run", "agent_name": "agent", "action_type": "act", "status": 1,
        "severity": 1, "timestamp": Timestamp(seconds=1), **changes,
    }  # fmt: skip
    return OutcomeEvent(**made)


def kept(message: Any) -> bool:
    try:
        check(message)
    except InvalidArgument:
        return False
    return True


def told(message: Any) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as refused:
        check(message)
    return {each.field: each.description for each in refused.value.violations}


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_names_with_control_characters_are_refused(control: str) -> None:
    for name in (f"a{control}", f"{control}a", f"a{control}b"):
        assert told(silence(name)) == {"author": "must not have control characters"}
        assert told(signal(name)) == {"source": "must not have control characters"}
        assert told(signal("eta", name)) == {"subject": "must not have control characters"}
        for field in OUTCOME_NAMES:
            assert told(outcome(**{field: name})) == {field: "must not have control characters"}
        assert told(outcome(tags=["a", name])) == {"tags[1]": "must not have control characters"}


@pytest.mark.parametrize("blank", BLANKS, ids=ascii)
def test_names_of_blanks_alone_are_refused(blank: str) -> None:
    assert told(silence(blank)) == {"author": "must not be blank"}
    assert told(signal(blank)) == {"source": "must not be blank"}
    assert told(signal("eta", blank)) == {"subject": "must not be blank"}
    for field in OUTCOME_NAMES:
        assert told(outcome(**{field: blank})) == {field: "must not be blank"}
    assert told(outcome(tags=[blank])) == {"tags[0]": "must not be blank"}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_in_any_script_are_taken(name: str) -> None:
    check(silence(name))
    check(signal(name, name))
    check(outcome(**dict.fromkeys(OUTCOME_NAMES, name), tags=[name]))


@given(st.text(st.characters(exclude_categories=["Cs"])) | st.text(st.sampled_from(ODD)))
def test_the_recorder_makes_of_any_name_one_that_is_taken(name: str) -> None:
    text = name[:128]
    taken = outcome(workflow_id=text)
    if "\0" not in text:
        assert is_name(text) is kept(taken)
    put_names_right(taken)
    check(taken)
    clean = clean_name(name)
    assert is_name(clean)
    assert clean_name(clean) == clean
    assert len(clean) <= len(name)


@given(st.lists(st.text(st.sampled_from(ODD + "\0"), max_size=4), max_size=4))
def test_what_is_recorded_is_never_refused_for_its_names(names: list[str]) -> None:
    name = "".join(names)
    given_event = outcome(**dict.fromkeys(OUTCOME_NAMES, name or "a"), tags=names)
    clean = fit_to_record(given_event)
    check(clean)
    assert fit_to_record(clean) == clean
    error = type("E" if "\0" in name else name[:9] or "E", (Exception,), {})()
    check(
        made(
            agent_name=name, agent_type=name, action_type=name, started=datetime.now(UTC), duration_ms=1,
            status=SUCCESS, links=Links(name, name, name, name), tags=names, error=error,
        )
    )  # fmt: skip


def test_names_of_blanks_that_only_were_cut_are_no_names() -> None:
    clean = fit_to_record(outcome(workflow_id=" " * 120 + "pin: 1"))
    check(clean)
    assert "workflow_id" not in [field.name for field, _ in clean.ListFields()] or clean.workflow_id.strip()


def test_names_keep_what_can_be_seen_of_them() -> None:
    clean = fit_to_record(
        outcome(agent_name="a\nb", event_id="\x1b1", tags=["x\ty", " ", ""], agent_type="  ")
    )
    assert (clean.agent_name, clean.event_id, list(clean.tags), clean.agent_type) == (
        "a\ufffdb",
        "\ufffd1",
        ["x\ufffdy", ""],
        "",
    )


def test_a_silence_need_not_say_whose_it_is_but_a_signal_must() -> None:
    check(silence(""))
    assert told(signal("")) == {"source": "must be at least 1 character"}
