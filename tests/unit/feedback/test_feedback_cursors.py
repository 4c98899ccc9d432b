"""Page tokens: they come back as what they were, and nothing else is taken for one."""

import base64
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waymesh.mesh.v1.error_reason_pb2 import ERROR_REASON_CURSOR_INVALID

from services.feedback.cursors import number_token, parse_number, parse_place, place_token
from services.feedback.store import Place
from services.mesh.errors import InvalidArgument

# PostgreSQL's bigint.
numbers = st.integers(0, 2**63 - 1)
times = st.datetimes(timezones=st.just(UTC))
places = st.builds(Place, times, numbers)


@given(numbers)
def test_a_number_comes_back(number: int) -> None:
    assert parse_number(number_token(number), "page_token") == number


@given(places)
def test_a_place_comes_back_to_the_microsecond(place: Place) -> None:
    assert parse_place(place_token(place), "page_token") == place


@given(numbers, places)
def test_a_token_fits_the_field_and_a_url(number: int, place: Place) -> None:
    for token in (number_token(number), place_token(place)):
        assert 0 < len(token) <= 256
        assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@given(numbers, places)
def test_a_token_of_one_list_is_none_of_the_other(number: int, place: Place) -> None:
    with pytest.raises(InvalidArgument):
        parse_number(place_token(place), "page_token")
    with pytest.raises(InvalidArgument):
        parse_place(number_token(number), "page_token")


@given(st.text(max_size=40) | st.binary(max_size=24).map(lambda raw: base64.urlsafe_b64encode(raw).decode()))
def test_other_text_is_refused_by_field_unless_it_is_what_we_would_have_written(text: str) -> None:
    try:
        assert number_token(parse_number(text, "cursor")) == text
    except InvalidArgument as error:
        refused = error
        assert refused.reason == ERROR_REASON_CURSOR_INVALID
        assert [each.field for each in refused.violations] == ["cursor"]


@given(places, st.data())
def test_a_token_with_one_character_changed_is_another_place_or_none(
    place: Place, data: st.DataObject
) -> None:
    token = place_token(place)
    at = data.draw(st.integers(0, len(token) - 1))
    other = token[:at] + data.draw(st.sampled_from("AZaz09-_= ")) + token[at + 1 :]
    try:
        found = parse_place(other, "page_token")
    except InvalidArgument:
        return
    assert (found == place) == (other == token)


@pytest.mark.parametrize("micros", [-(2**63), 2**63 - 1])
def test_a_time_that_no_clock_shows_is_refused(micros: int) -> None:
    token = (
        base64.urlsafe_b64encode(b"p" + micros.to_bytes(8, "big", signed=True) + bytes(8))
        .decode()
        .rstrip("=")
    )
    with pytest.raises(InvalidArgument):
        parse_place(token, "page_token")


def test_a_number_beyond_what_the_store_counts_is_refused() -> None:
    token = base64.urlsafe_b64encode(b"n" + (2**63).to_bytes(8, "big")).decode().rstrip("=")
    with pytest.raises(InvalidArgument):
        parse_number(token, "page_token")


@given(places, places)
def test_tokens_of_different_places_differ(one: Place, other: Place) -> None:
    assert (place_token(one) == place_token(other)) == (one == other)


def test_the_zone_of_a_time_does_not_matter() -> None:
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)
    there = noon.astimezone(tz=datetime.strptime("+0530", "%z").tzinfo)
    assert place_token(Place(there, 7)) == place_token(Place(noon, 7))
    assert parse_place(place_token(Place(there, 7)), "page_token").at - noon == timedelta(0)
