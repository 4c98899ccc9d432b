"""What is told at a glance to be everyday is: it keeps the contract, and redaction changes nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waymesh.feedback.v1.feedback_service_pb2 import RecordOutcomesRequest
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent

from services.feedback.plain import are_plain, is_plain
from services.mesh.chain.server.validation import check
from services.mesh.errors import InvalidArgument
from services.mesh.feedback.outcome import without_secrets
from services.mesh.redact import is_clean_text, redact_text

SECRETS = (
    "postgres://u:p@h/d", "Bearer abcdefgh1", "basic\u00a0YWxhZGRpbjpv", "sk_live_12345678",
    "rk_test_12345678", "sk-1234567890123456", "ghp_12345678901234567890",
    "github_pat_12345678901234567890", "xoxb-1234567890", "AKIAABCDEFGHIJKLMNOP",
    "AIza123456789012345678901234567890", "123-45-6789", "eyJabcdefgh.abcd.x", "password=x", "api_key: x",
    "to\u212aen=x", "\u017fecret=x", "-----BEGIN PRIVATE KEY-----", "pwd:x",
    "hf_abcdefghijklmnop", "glpat-abcdefghijklmnop", "u:p@h", "--pin x", "('pin','x')", "['--pin', 'x']",
    "Cookie: x",
    "{'pin': 'x'}", "pin\uff1dx", "token_count: x", "api key: x",
)  # fmt: skip
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
hints = st.sampled_from(
    [
        *SECRETS,
        "pin",
        "--pin",
        "token_count",
        "-",
        "--",
        "'",
        '"',
        ",",
        "(",
        " ",
        "order_12",
        "2025-10-09",
        "550e8400-e29b-41d4-a716-446655440000",
        "ok",
        "\0",
        "\n",
        "\x1b",
        "\u202e",
        "\u00a0",
        "\u3000",
        "\u200d",
    ]
)
some_text = st.lists(texts | hints, max_size=3).map("".join)
names = st.sampled_from(
    [
        "password",
        "api key",
        "x-Token",
        "tokens_used",
        "name",
        "key",
        "value",
        "\uff50in",
        "card",
        "note",
        "order_id",
        "SSN",
        "",
        "aPan",
    ]
)
numbers = st.floats() | st.integers(-(2**60), 2**60).map(float)
payloads = st.dictionaries(
    names | some_text,
    st.recursive(
        st.none() | st.booleans() | numbers | some_text,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | some_text, inner, max_size=3),
        max_leaves=5,
    ),
    max_size=3,
)
doubles = st.floats() | st.sampled_from([1.5, 1e9, 1.1e9, 1e12, 1.1e12, 1.7e308])
seconds = st.integers(-(2**40), 2**40) | st.integers(1_700_000_000, 1_700_000_002)
stamps = st.none() | st.tuples(seconds, st.integers(-1, 1_000_000_000))
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(
        (
            "event_id", "run_id", "agent_name", "agent_type", "action_type", "correlation_id", "workflow_id",
            "parent_event_id", "error_type", "error_message", "stack_trace",
        ),
        some_text | st.text("x", min_size=120, max_size=300),
    ),
    **dict.fromkeys(("duration_ms", "latency_ms", "llm_latency_ms", "cost_estimate"), doubles),
    **dict.fromkeys(("status", "severity"), st.integers(0, 7)),
    **dict.fromkeys(("input", "output", "metadata"), payloads),
    **dict.fromkeys(("timestamp", "start_time", "end_time"), stamps),
    "tags": st.lists(some_text, max_size=3) | st.just(["a"] * 65),
    "tokens_used": st.integers(0, 2**32 - 1),
}  # fmt: skip


def event(changes: dict[str, Any]) -> OutcomeEvent:
    """An everyday outcome, changed."""
    made = OutcomeEvent(
        event_id="event", run_id="run", agent_name="agent", action_type="act", status=1, severity=1,
        duration_ms=1, latency_ms=1, tags=["a"],
    )  # fmt: skip
    made.timestamp.seconds = 1_700_000_000
    made.input.update({"order_id": "order_1", "fresh": True, "legs": [1, {"m": 2.5}]})
    for name, value in changes.items():
        if name in ("timestamp", "start_time", "end_time"):
            made.ClearField(name)
            if value is not None:
                stamp = getattr(made, name)
                stamp.seconds, stamp.nanos = value
        elif isinstance(value, dict):
            made.ClearField(name)
            getattr(made, name).update(value)
        elif name == "tags":
            made.tags[:] = value
        else:
            setattr(made, name, value)
    return made


changed = st.sets(st.sampled_from(sorted(FIELDS)), max_size=3).flatmap(
    lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names})
)


def kept(one: OutcomeEvent) -> bool:
    try:
        check(one)
    except InvalidArgument:
        return False
    return True


@given(changed)
def test_a_plain_outcome_keeps_the_contract_and_redaction_leaves_it_as_it_is(changes: dict[str, Any]) -> None:
    made = event(changes)
    if is_plain(made):
        assert kept(made)
        clean = without_secrets(made)
        assert clean == made
        assert clean.SerializeToString(deterministic=True) == made.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"start_time": (1, 0), "end_time": (1, 0), "error_type": "ValueError", "error_message": "too late"},
        {"output": {"eta": 12.5, "ok": True, "none": None, "list": ["a", {"b": "c"}]}, "tokens_used": 7},
        {"run_id": "550e8400-e29b-41d4-a716-446655440000", "metadata": {"tokens_used": 3}},
    ],
)
def test_everyday_outcomes_are_plain(changes: dict[str, Any]) -> None:
    assert is_plain(event(changes))


NAMES = [
    "event_id", "run_id", "agent_name", "agent_type", "action_type", "error_type", "correlation_id",
    "workflow_id", "parent_event_id",
]  # fmt: skip


@given(
    st.sampled_from([*NAMES, "tags"]),
    st.text(st.sampled_from("ab \u00a0\u200b\u200d\u2065\u202e\u3000\n\x7f\x9f\ufeff\u0430"), max_size=3)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=3),
)
def test_of_short_names_those_are_plain_that_the_contract_takes(field: str, name: str) -> None:
    made = event({field: [name] if field == "tags" else name})
    if is_clean_text(name) or field in ("event_id", "parent_event_id"):
        assert is_plain(made) is kept(made)


@given(st.lists(changed, max_size=3))
def test_a_batch_of_plain_outcomes_keeps_the_contract(batch: list[dict[str, Any]]) -> None:
    request = RecordOutcomesRequest(events=map(event, batch))
    if are_plain(request):
        check(request)


@pytest.mark.parametrize("count", [0, 1001])
def test_no_batch_is_plain_that_holds_nothing_or_too_much(count: int) -> None:
    assert not are_plain(RecordOutcomesRequest(events=[event({})] * count))


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("field", ["run_id", "error_message", "stack_trace", "agent_name", "workflow_id"])
def test_no_text_with_a_secret_is_plain(secret: str, field: str) -> None:
    assert not is_plain(event({field: secret}))


@pytest.mark.parametrize("secret", SECRETS)
def test_no_payload_with_a_secret_is_plain(secret: str) -> None:
    for payload in ({"a": secret}, {"a": [{"b": secret}]}, {secret: "a"}):
        assert not is_plain(event({"output": payload}))
    assert not is_plain(event({"tags": [secret]}))


@pytest.mark.parametrize(
    "name", ["password", "apiKey", "x-token", "user.ssn", "PIN", "\uff50in", "signature"]
)
def test_no_payload_with_a_secret_name_is_plain(name: str) -> None:
    assert not is_plain(event({"input": {"a": {name: 1}}}))


@pytest.mark.parametrize(
    ("payload", "plain"),
    [
        ({"name": "password", "value": "x"}, False),
        ({"name": "colour", "value": "x", "key": 1}, True),
        ({"pairs": [["pin", "x"]]}, False),
        ({"pairs": [["a", "x"]]}, True),
        ({"command": ["pip", "--pin", "x"]}, False),
        ({"tokens_used": "x"}, False),
        ({"tokens_used": {"a": "x"}}, False),
        ({"tokens_used": 3}, True),
    ],
)
def test_what_stands_beside_a_name_is_looked_at(payload: dict[str, Any], plain: bool) -> None:
    assert is_plain(event({"metadata": payload})) is plain


def test_what_redaction_puts_right_is_not_plain() -> None:
    hollow = event({})
    hollow.input.fields["a"].Clear()
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"a": deep}
    for one in (hollow, event({"input": {"a": 1e300}}), event({"input": deep})):
        assert not is_plain(one)


@given(st.lists(texts | hints, max_size=4).map("".join))
def test_clean_text_is_what_redaction_leaves_as_it_is(text: str) -> None:
    if is_clean_text(text):
        assert redact_text(text) == text
