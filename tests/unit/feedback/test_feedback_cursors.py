"""Page tokens: they come back as what they were, and nothing else is taken for one."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import assume, given
from hypothesis import strategies as st
from waymesh.feedback.v1.alert_pb2 import ListAlertsRequest
from waymesh.feedback.v1.feedback_service_pb2 import ListOutcomesRequest
from waymesh.feedback.v1.metrics_pb2 import QueryMetricsRequest
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_CURSOR_INVALID

from services.feedback.cursors import number_token, parse_number, parse_place, place_token
from services.feedback.store import Place
from services.mesh.cursors import not_kept
from services.mesh.errors import InvalidArgument

# PostgreSQL's bigint.
numbers = st.integers(0, 2**63 - 1)
times = st.datetimes(timezones=st.just(UTC))
places = st.builds(Place, times, numbers)
NOON = Place(datetime(2026, 1, 1, 12, tzinfo=UTC), 7)
LIST = ListOutcomesRequest(agent_name="eta", statuses=[2, 4])  # type: ignore[list-item]


@given(numbers)
def test_a_number_comes_back(number: int) -> None:
    assert parse_number(number_token(number), "page_token") == number


@given(places)
def test_a_place_comes_back_to_the_microsecond(place: Place) -> None:
    assert parse_place(place_token(place, LIST), "page_token", LIST) == place


@given(numbers, places)
def test_a_token_fits_the_field_and_a_url(number: int, place: Place) -> None:
    for token in (number_token(number), place_token(place, LIST)):
        assert 0 < len(token) <= 256
        assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(numbers, places)
def test_a_token_of_one_list_is_none_of_the_other(number: int, place: Place) -> None:
    with pytest.raises(InvalidArgument):
        parse_number(place_token(place, LIST), "page_token")
    with pytest.raises(InvalidArgument):
        parse_place(number_token(number), "page_token", LIST)


@given(st.text(max_size=40) | st.binary(max_size=24).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_other_text_is_refused_by_field_unless_it_is_what_we_would_have_written(text: str) -> None:
    try:
        assert number_token(parse_number(text, "cursor")) == text
    except InvalidArgument as error:
        refused = error
        assert refused.reason == ERROR_REASON_CURSOR_INVALID
        assert [each.field for each in refused.violations] == ["cursor"]


@given(places, st.data())
def test_a_token_with_one_character_changed_is_none(place: Place, data: st.DataObject) -> None:
    token = place_token(place, LIST)
    at = data.draw(st.integers(0, len(token) - 1))
    other = token[:at] + data.draw(st.sampled_from("AZaz09-_= ")) + token[at + 1 :]
    assume(other != token)
    with pytest.raises(InvalidArgument) as refused:
        parse_place(other, "page_token", LIST)
    assert refused.value.reason == ERROR_REASON_CURSOR_INVALID


OTHERS: tuple[Message, ...] = (
    ListOutcomesRequest(),
    ListOutcomesRequest(agent_name="eta"),
    ListOutcomesRequest(agent_name="route", statuses=LIST.statuses),
    ListOutcomesRequest(workflow_id="eta", statuses=LIST.statuses),
    ListOutcomesRequest(agent_name="eta", statuses=LIST.statuses, start_time=Timestamp()),
    ListAlertsRequest(),
    ListAlertsRequest(rule="eta"),
    QueryMetricsRequest(),
    QueryMetricsRequest(window="eta"),
)


@given(places, st.sampled_from(OTHERS), st.sampled_from(OTHERS))
def test_a_token_is_good_for_its_own_list_and_filters_only(
    place: Place, one: Message, other: Message
) -> None:
    assume(one is not other)
    token = place_token(place, one)
    assert parse_place(token, "page_token", one) == place
    for wrong in (LIST, other):
        with pytest.raises(InvalidArgument):
            parse_place(token, "page_token", wrong)


def test_the_next_page_may_have_another_length_and_ask_for_the_same_in_another_order() -> None:
    token = place_token(NOON, LIST)
    again = ListOutcomesRequest(agent_name="eta", statuses=[*reversed(LIST.statuses), *LIST.statuses])
    again.page_size, again.page_token = 3, token
    before = again.SerializeToString(deterministic=True)
    assert parse_place(token, "page_token", again) == NOON
    assert again.SerializeToString(deterministic=True) == before


def test_who_reads_the_details_alone_is_told_the_remedy() -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_place("nonsense", "page_token", LIST)
    for error in (refused.value, not_kept("x", "page_token")):
        [violation] = error.violations
        assert violation.field == "page_token"
        assert violation.description.endswith("; leave it empty to start anew")


def test_only_a_place_is_said_to_depend_on_filters() -> None:
    with pytest.raises(InvalidArgument) as of_pages:
        parse_place("nonsense", "page_token", LIST)
    with pytest.raises(InvalidArgument) as of_numbers:
        parse_number("nonsense", "cursor")
    assert "with the same filters" in of_pages.value.violations[0].description
    assert of_numbers.value.violations[0].description == (
        "is not one that an earlier answer gave; leave it empty to start anew"
    )


def test_a_number_beyond_what_the_store_counts_is_refused() -> None:
    token = base64.urlsafe_b64encode(b"n" + (2**63).to_bytes(8, "big")).decode().rstrip("=")
    with pytest.raises(InvalidArgument):
        parse_number(token, "page_token")


@given(places, places)
def test_tokens_of_different_places_differ(one: Place, other: Place) -> None:
    assert (place_token(one, LIST) == place_token(other, LIST)) == (one == other)


def test_the_zone_of_a_time_does_not_matter() -> None:
    there = NOON._replace(at=NOON.at.astimezone(tz=datetime.strptime("+0530", "%z").tzinfo))
    assert place_token(there, LIST) == place_token(NOON, LIST)
    assert parse_place(place_token(there, LIST), "page_token", LIST).at - NOON.at == timedelta(0)
