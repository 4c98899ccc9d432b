"""What is secret never gets past redact()."""

import copy
from collections import UserString
from dataclasses import dataclass
from typing import NamedTuple

import pytest
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from waymesh.feedback.v1.outcome_pb2 import OutcomeEvent
from waymesh.feedback.v1.signal_pb2 import Signal

from services.mesh.redact import (
    MASK,
    MAX_DEPTH,
    MAX_VALUES,
    TOO_DEEP,
    TOO_LARGE,
    is_secret_name,
    redact,
    redact_setting,
    redact_text,
)


@pytest.mark.parametrize(
    "name",
    [
        *("ssn", "SSN", "user_ssn", "password", "Password", "db_password", "userPassword", "passwd", "pwd"),
        *("token", "access_token", "accessToken", "refresh-token", "api_key", "apiKey", "APIKey"),
        *(
            "X-API-Key",
            "FASTAPI_API_KEY",
            "OPENAI_API_KEY",
            "secret",
            "client_secret",
            "aws_secret_access_key",
        ),
        *("authorization", "Authorization", "auth", "proxy-authorization", "cookie", "Set-Cookie", "card"),
        *(
            "card_number",
            "creditCard",
            "cvv",
            "iban",
            "pin",
            "private_key",
            "dsn",
            "DATABASE_URL",
            "credentials",
        ),
        *(
            "sig",
            "xsrf",
            "csrf_token",
            "PHPSESSID",
            "ssh_key",
            "sharedKey",
            "master-key",
            "AccountKey",
            "hmac",
        ),
        *("security_code", "passport", "bank_account", "pass\u200bword", "my_cookie", "auth_tokens"),
        *("pass", "passcode", "signature", "session_id", "sessionId", "otp", "jwt", "authtoken", "pw"),
        *("\uff50assword", "pa\u017fsword", "to\u212aen", "x" * 300 + "_password"),
        *(
            "standby_password",
            "StandbyPassword",
            "standbypassword",
            "example.com.password",
            "telecomPasscode",
        ),
        *("share_pin", "rate_card", "ms_auth"),
    ],
)
def test_these_names_say_secret(name: str) -> None:
    assert is_secret_name(name)
    assert redact({name: "hunter2"}) == {name: MASK}


@pytest.mark.parametrize(
    "name",
    [
        *("tokens_used", "max_tokens", "prompt_tokens", "completionTokens", "token_count", "total_tokens"),
        *(
            "order_id",
            "driver_id",
            "session",
            "mapping",
            "discard",
            "cardinality",
            "company",
            "shopping",
            "key",
        ),
        *("secretary", "discard_number", "postcard_number", "compass_code", "unauthorized", "bypassed"),
        *("taxi_driver", "routing_number", "security", "sigma", "signal", "massport"),
        *("author", "japan", "keyboard", "monkey", "duration_ms", "passenger", "expand", "classname", ""),
    ],
)
def test_these_names_do_not(name: str) -> None:
    assert not is_secret_name(name)
    assert redact({name: 7}) == {name: 7}
    if "token" not in name.lower():
        assert redact({name: "hunter2"}) == {name: "hunter2"}


@pytest.mark.parametrize(
    "name",
    [
        *("tokens_used", "max_tokens", "token_count", "totalTokens", "tokens", "n_tokens", "cached_tokens"),
        *("token_usage", "cost_per_token", "pass_rate", "authDurationMs", "card_count", "pin_lat"),
    ],
)
def test_an_amount_is_a_number(name: str) -> None:
    assert redact({name: "hunter2"}) == {name: MASK}
    assert redact({name: {"a": ["hunter2", 3]}}) == {name: {"a": [MASK, 3]}}
    assert redact({name: 4111111111111111}) == {name: MASK}
    for number in (7, 2.5, "150", "", None, True):
        assert redact({name: number}) == {name: number}


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ([["Authorization", "x"], ("a", "b")], [["Authorization", MASK], ["a", "b"]]),
        ({"name": "password", "value": "x"}, {"name": "password", "value": MASK}),
        ({"value": "x", "key": "api-key"}, {"value": MASK, "key": "api-key"}),
        ({"name": "colour", "value": "x"}, {"name": "colour", "value": "x"}),
        ({"NAME": "password", "VALUE": "x"}, {"NAME": "password", "VALUE": MASK}),
        ({"param": "api_key", "values": ["x"]}, {"param": "api_key", "values": MASK}),
        ({"field": "pin", "old": "x", "new": "y"}, {"field": "pin", "old": MASK, "new": MASK}),
        ({"header": "Cookie", "content": "x"}, {"header": "Cookie", "content": MASK}),
        ({"name": "tokens", "value": "x"}, {"name": "tokens", "value": MASK}),
        ({"name": "tokens", "value": 3}, {"name": "tokens", "value": 3}),
        (
            {"loc": ("body", "password"), "input": "x", "msg": "too short"},
            {"loc": ["body", "password"], "input": MASK, "msg": "too short"},
        ),
        ({"loc": ["body", 0], "input": "x"}, {"loc": ["body", 0], "input": "x"}),
        (["pip", "--password", "x", "y"], ["pip", "--password", MASK, "y"]),
        (["--verbose", "x"], ["--verbose", "x"]),
        (["password", None], ["password", None]),
        (["user", "password", "order"], ["user", "password", "order"]),
    ],
)
def test_what_stands_beside_the_name_of_a_secret_is_secret(value: object, shown: object) -> None:
    assert redact(value) == shown
    assert redact(shown) == shown


def test_a_secret_name_hides_whatever_stands_under_it() -> None:
    given_value = {"credentials": {"user": "ann", "other": [1, 2]}, "password": 12345, "token": ["a"]}
    assert redact(given_value) == {"credentials": MASK, "password": MASK, "token": MASK}


def test_that_there_was_nothing_may_be_seen() -> None:
    assert redact({"password": None, "token": ""}) == {"password": None, "token": ""}


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Authorization: Bearer abcdef0123456789", f"Authorization: Bearer {MASK}"),
        ("basic dXNlcjpwYXNzd29yZA==", f"basic {MASK}"),
        ("postgres://user:pw@db:5432/x", f"postgres://user:{MASK}@db:5432/x"),
        (
            "cannot reach postgresql://u:p@ss/w:rd@db/x today",
            f"cannot reach postgresql://u:{MASK}@db/x today",
        ),
        ("redis://:pw@cache", f"redis://:{MASK}@cache"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln here", f"jwt {MASK} here"),
        ("sk-proj-abcdefghij0123456789", MASK),
        ("AKIAIOSFODNN7EXAMPLE", MASK),
        ("https://x/y?api_key=abc123&order_id=7", f"https://x/y?api_key={MASK}&order_id=7"),
        ('{"password": "pw", "order_id": "o"}', f'{{"password": "{MASK}", "order_id": "o"}}'),
        ("DB_PASSWORD=pw HOME=/x", f"DB_PASSWORD={MASK} HOME=/x"),
        ("ssn 078-05-1120.", f"ssn {MASK}."),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----", MASK),
    ],
)
def test_secrets_in_running_text_are_masked_and_the_rest_kept(text: str, clean: str) -> None:
    assert redact_text(text) == clean
    assert redact({"error_message": [text]}) == {"error_message": [clean]}


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "order_456",
            "Invalid data format",
            "2025-10-09T12:34:56.789Z",
            "tokens_used=150 max_tokens=2000",
        ),
        *(
            "550e8400-e29b-41d4-a716-446655440000",
            "https://host:8000/execute",
            "mail@example.org",
            "basic idea",
        ),
        'Traceback (most recent call last):\n  File "x.py", line 3, in f\nValueError: 3 != 4',
    ],
)
def test_innocent_text_stays(text: str) -> None:
    assert redact_text(text) == text


def test_everything_that_is_no_text_stays_what_it_is() -> None:
    value = {"a": 1, "b": 2.5, "c": True, "d": None, "e": [1, {"f": "g"}]}
    assert redact(value) == value


def test_the_value_given_is_not_changed() -> None:
    value = {"a": {"password": "x", "l": ["Bearer abcdefgh123", {"ssn": "1"}]}}
    before = copy.deepcopy(value)
    redact(value)
    assert value == before


@dataclass
class Login:
    user: str
    password: str


def test_objects_that_hold_fields_are_looked_into() -> None:
    assert redact((Login("ann", "pw"),)) == [{"user": "ann", "password": MASK}]


class Pair(NamedTuple):
    user: str
    password: str


def test_named_tuples_are_looked_into_by_their_names() -> None:
    assert redact([Pair("ann", "pw")]) == [{"user": "ann", "password": MASK}]


def test_messages_are_looked_into_by_their_names() -> None:
    struct = Struct()
    struct.update({"password": "pw", "a": [{"token": "pw", "b": "c"}]})
    shown = {"password": MASK, "a": [{"token": MASK, "b": "c"}]}
    assert redact(struct) == shown
    assert redact({"s": struct.fields["a"]}) == {"s": shown["a"]}
    assert redact([OutcomeEvent(event_id="e", input=struct)]) == [{"event_id": "e", "input": shown}]
    assert redact(Signal(labels={"pin": "pw", "b": "c"})) == {"labels": {"pin": MASK, "b": "c"}}


def test_a_message_that_json_has_not_is_not_kept() -> None:
    assert redact(Timestamp(seconds=2**60)) == f"[{Timestamp(seconds=2**60).ByteSize()} bytes]"
    large = Signal(message="password=x " * 10_000)
    assert redact(large) == f"[{large.ByteSize()} bytes]"


def test_text_of_another_class_is_text() -> None:
    assert redact(UserString("password=x")) == f"password={MASK}"


def test_what_has_no_end_has_one_here() -> None:
    circle: list[object] = []
    circle += [circle, circle, {"password": "x"}]
    assert TOO_LARGE in str(redact(circle))[-100:]
    assert "name" in str(redact({"name": circle}))
    assert len(str(redact(range(10**9)))) < 10 * MAX_VALUES


def test_bytes_are_not_kept() -> None:
    assert redact({"body": b"password=x"}) == {"body": "[10 bytes]"}


def test_what_lies_too_deep_is_left_out() -> None:
    deep: object = "password=hunter2"
    for _ in range(10_000):
        deep = {"a": deep}
    shown = redact(deep)
    for _ in range(MAX_DEPTH):
        assert isinstance(shown, dict)
        shown = shown["a"]
    assert shown == TOO_DEEP


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(value=json_values, secret=st.uuids().map(str))
def test_a_secret_never_survives_wherever_it_is(value: object, secret: str) -> None:
    assert secret not in repr(redact([value, {"deep": [{"api_key": secret, "x": value}]}, f"token={secret}"]))


@given(value=json_values)
def test_redacting_twice_is_redacting_once(value: object) -> None:
    once = redact(value)
    assert repr(redact(once)) == repr(once)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("DATABASE_URL", "postgresql://w:it's@b:2\"<x@db/w", f"postgresql://w:{MASK}@db/w"),
        ("DATABASE_URL", "postgresql://w@db/w?password=hunter2", f"postgresql://w@db/w?password={MASK}"),
        ("DATABASE_URL", "postgresql://w:a b@c d@db/w", f"postgresql://w:{MASK}@db/w"),
        ("DATABASE_URL", "postgresql:///w?password=a,b;c#d&x=1", f"postgresql:///w?password={MASK}&x=1"),
        ("DATABASE_URL", "w:hunter2@db", f"w:{MASK}@db"),
        ("endpoint", "http://u:p@c:4318/x?api_key=abc", f"http://u:{MASK}@c:4318/x?api_key={MASK}"),
        ("OPENAI_API_KEY", "abc", MASK),
        ("OPENAI_API_KEY", "", ""),
        ("KAFKA_BOOTSTRAP_SERVERS", "a:9092,b:9092", "a:9092,b:9092"),
        ("WAYMESH_MAX_TOKENS", "many", "many"),
    ],
)
def test_a_setting_is_shown_without_what_is_secret_in_it(name: str, value: str, shown: str) -> None:
    assert redact_setting(name, value) == shown
