"""Names come back in alerts and on terminals: they can be seen there, and do nothing to them."""

from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from waymesh.feedback.v1.alert_pb2 import SilenceAlertRequest
from waymesh.feedback.v1.outcome_pb2 import Severity
from waymesh.feedback.v1.signal_pb2 import Signal, SignalKind

from services.mesh.chain.server.validation import check
from services.mesh.errors import InvalidArgument

# Of ASCII, of Latin 1, and those that turn the direction of what follows.
CONTROLS = [chr(n) for n in (1, 9, 10, 0x1B, 0x7F, 0x85, 0x9B, 0x61C, 0x200E, 0x202A, 0x202E, 0x2066, 0x2069)]
BLANKS = [" ", "  ", "\u00a0", "\u2003", "\u200b", "\u3000 ", "\ufeff"]
NAMES = ["eta", "a b", " a", "ä", "速達", "\u200dx", "عنوان", "🚚", "a\u00a0b", "\u2065", "\u202f-"]


def silence(author: str) -> SilenceAlertRequest:
    return SilenceAlertRequest(alert_key="error_rate/eta", duration_s=1, author=author)


def signal(source: str) -> Signal:
    return Signal(
        signal_id="s",
        kind=SignalKind.SIGNAL_KIND_GPS_ANOMALY,
        source=source,
        subject="driver",
        severity=Severity.SEVERITY_INFO,
        timestamp=Timestamp(seconds=1),
    )


def told(message: Any) -> dict[str, str]:
    with pytest.raises(InvalidArgument) as refused:
        check(message)
    return {each.field: each.description for each in refused.value.violations}


@pytest.mark.parametrize("control", CONTROLS, ids=ascii)
def test_names_with_control_characters_are_refused(control: str) -> None:
    for name in (f"a{control}", f"{control}a", f"a{control}b"):
        assert told(silence(name)) == {"author": "must not have control characters"}
        assert told(signal(name)) == {"source": "must not have control characters"}


@pytest.mark.parametrize("blank", BLANKS, ids=ascii)
def test_names_of_blanks_alone_are_refused(blank: str) -> None:
    assert told(silence(blank)) == {"author": "must not be blank"}
    assert told(signal(blank)) == {"source": "must not be blank"}


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_in_any_script_are_taken(name: str) -> None:
    check(silence(name))
    check(signal(name))


def test_a_silence_need_not_say_whose_it_is_but_a_signal_must() -> None:
    check(silence(""))
    assert told(signal("")) == {"source": "must be at least 1 character"}
