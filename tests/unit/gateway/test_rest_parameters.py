"""Whatever a path and a query say becomes a request, or an error that names the parameter."""

from typing import Any
from urllib.parse import quote, urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.rest import parameters
from services.gateway.rest.binding import Binding, load
from services.gateway.rest.table import Table
from services.mesh import json_codec
from services.mesh.errors import InvalidArgument, MeshError

BINDINGS = {(each.method, each.template.text): each for each in load()}
TABLE = Table(BINDINGS.values())
LIST = BINDINGS["GET", "/api/agents"]
GET = BINDINGS["GET", "/api/agents/{agent_id}"]

raw = st.binary(max_size=30).map(lambda data: data.replace(b"\r", b"").replace(b"\n", b""))
names = st.sampled_from(
    ["page_size", "page_token", "show_deleted", "version", "agent_id", "spec.name", "a.b"]
)


@settings(deadline=None)
@given(
    query=raw | st.lists(st.tuples(names, st.text(max_size=5))).map(lambda pairs: urlencode(pairs).encode())
)
def test_any_query_is_read_or_refused_with_an_error_that_may_be_told(query: bytes) -> None:
    for binding in (LIST, GET, BINDINGS["POST", "/api/agents"]):
        try:
            filled = parameters.read(binding, [b"x"] * len(binding.template.fields), query)
            json_codec.from_dict(binding.request, filled)
        except InvalidArgument as error:
            for violation in error.violations:
                violation.field.encode()
                assert violation.description


@settings(deadline=None)
@given(
    path=raw
    | st.lists(st.sampled_from([b"", b"api", b"agents", b"%", b"%2F", b"x", b"versions"])).map(b"/".join)
)
def test_any_path_means_something_or_nothing(path: bytes) -> None:
    for match in TABLE.find(path):
        for binding in match.bindings.values():
            assert len(match.values) == len(binding.template.fields)
            assert all(match.values)


@settings(deadline=None)
@given(agent_id=st.text(min_size=1, max_size=40).filter(lambda text: "\0" not in text))
def test_what_is_percent_encoded_comes_back_as_it_was(agent_id: str) -> None:
    [match] = TABLE.find(f"/api/agents/{quote(agent_id, safe='')}".encode())
    assert parameters.read(GET, match.values, b"") == {"agent_id": agent_id}


@settings(deadline=None)
@given(
    page_size=st.integers(0, 2**32 - 1),
    token=st.text(max_size=20).filter(lambda text: "\0" not in text),
    deleted=st.booleans(),
)
def test_what_a_form_sends_comes_back_as_it_was(page_size: int, token: str, deleted: bool) -> None:
    query = urlencode({"page_size": page_size, "page_token": token, "show_deleted": str(deleted).lower()})
    filled = parameters.read(LIST, (), query.encode())
    request: Any = json_codec.from_dict(LIST.request, filled)
    assert (request.page_size, request.page_token, request.show_deleted) == (page_size, token, deleted)


@pytest.mark.parametrize("binding", BINDINGS.values(), ids=[f"{m} {p}" for m, p in BINDINGS])
def test_a_query_of_many_wrong_parameters_is_told_in_parts(binding: Binding) -> None:
    query = "&".join(f"no_such_{n}=1" for n in range(200)).encode()
    with pytest.raises(MeshError) as told:
        parameters.read(binding, [b"x"] * len(binding.template.fields), query)
    assert len(told.value.violations) == json_codec.MAX_VIOLATIONS
