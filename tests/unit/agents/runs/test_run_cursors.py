"""Cursors and page tokens of runs: what went in comes out, and nothing else is taken for one."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from waymesh.agent.v1.agent_service_pb2 import ListRunsRequest

from services.agents.runs.cursors import Position, cursor_of, page_token, parse_cursor, parse_page_token
from services.agents.runs.record import Place, key_of
from services.mesh.errors import InvalidArgument

NUMBERS = st.integers(0, 2**32 - 1)
PLACE = Place(datetime(2026, 5, 1, 12, 30, 0, 123456, tzinfo=UTC), UUID(int=7))
REQUEST = ListRunsRequest(agent="eta", statuses=[2, 3], page_size=10)


@given(st.uuids(), NUMBERS, NUMBERS, st.booleans())
def test_what_a_cursor_says_comes_back(one: UUID, events: int, chars: int, last: bool) -> None:
    position = Position(events, chars, last)
    cursor = cursor_of(one, position)
    assert parse_cursor(cursor) == (one, position)
    assert len(cursor) <= 256


@given(st.text(max_size=100))
def test_nothing_else_is_a_cursor(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_cursor(text)


def test_a_page_goes_on_where_it_ended_for_the_same_list_only() -> None:
    token = page_token(PLACE, REQUEST, "acme")
    again = ListRunsRequest(agent="eta", statuses=[3, 2, 3], page_size=50, page_token=token)
    assert parse_page_token(token, again, "acme") == PLACE
    for request, tenant in (
        (ListRunsRequest(agent="route", statuses=[2, 3]), "acme"),
        (ListRunsRequest(agent="eta", statuses=[2]), "acme"),
        (REQUEST, "other"),
    ):
        with pytest.raises(InvalidArgument) as refused:
            parse_page_token(token, request, tenant)
        assert refused.value.violations[0].field == "page_token"


def test_a_cursor_is_no_page_token_and_the_other_way_round() -> None:
    with pytest.raises(InvalidArgument):
        parse_cursor(page_token(PLACE, REQUEST, "acme"))
    with pytest.raises(InvalidArgument):
        parse_page_token(cursor_of(UUID(int=7), Position()), REQUEST, "acme")


@given(st.text(max_size=10), st.text(max_size=10), st.text(max_size=10), st.text(max_size=10))
def test_runs_of_other_tenants_are_others(tenant: str, run_id: str, tenant2: str, run_id2: str) -> None:
    assert (key_of(tenant, run_id) == key_of(tenant2, run_id2)) == ((tenant, run_id) == (tenant2, run_id2))
