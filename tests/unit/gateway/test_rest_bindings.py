"""What annotations can ask for, and what they cannot."""

import pytest

from services.gateway.rest import template
from services.gateway.rest.binding import Binding, bindings_of, load
from services.gateway.rest.table import Table
from services.mesh.errors import FieldViolation, InvalidArgument, NotFound
from tests.probe_contract import contract

CONTRACT = """
syntax = "proto3";
package waymesh.odd.%s;
import "google/api/annotations.proto";
message Inner { string name = 1; }
message Asked { string id = 1; Inner inner = 2; repeated string ids = 3; double weight = 4; bytes data = 5; }
message Answered { string id = 1; }
service OddService {
  rpc Do(Asked) returns (%s Answered) {
    option idempotency_level = %s;
    option (google.api.http) = {%s};
  }
  %s
}
"""
_packages = iter(range(10_000))


def bound(rule: str, *, level: str = "NO_SIDE_EFFECTS", stream: str = "", more: str = "") -> list[Binding]:
    """The bindings of an annotation."""
    file = contract(CONTRACT % (f"v{next(_packages)}", stream, level, rule, more))
    [service] = file.services_by_name.values()
    return [each for method in service.methods for each in bindings_of(method)]


def test_the_contracts_agents_have_their_paths() -> None:
    served = {(each.method, each.template.text): each for each in load()}
    create = served["POST", "/api/agents"]
    assert (create.name, create.owner, create.body) == ("create_agent", "agents", "spec")
    assert create.path == "/waymesh.agent.v1.AgentRegistryService/CreateAgent"
    assert ("GET", "/api/capabilities") in served
    assert ("POST", "/api/agents/{agent_id}/capabilities/{capability_id}") in served
    Table(served.values())


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ('get: "things"', "must begin with a slash"),
        ('get: "/things/"', "'' is neither a plain text nor a field in braces"),
        ('get: "/things//x"', "'' is neither"),
        ('get: "/"', "'' is neither"),
        ('get: "/things/*"', "'*' is neither"),
        ('get: "/things/{id=**}"', "'{id=**}' is neither"),
        ('get: "/{id=things/*}"', "is neither"),
        ('get: "/things/{id}:stop"', "'{id}:stop' is neither"),
        ('get: "/things/a%20b"', "'a%20b' is neither"),
        ('get: "/things/{id}/{id}"', "a field stands in it twice"),
        ('get: "/things/{name}"', "Asked has no field name"),
        ('get: "/things/{inner.other}"', "Asked has no field inner.other"),
        ('get: "/things/{id.name}"', "Asked has no field id.name"),
        ('get: "/things/{inner}"', "inner is nothing that a segment of a path can say"),
        ('get: "/things/{ids}"', "ids is nothing that"),
        ('get: "/things/{weight}"', "weight is nothing that"),
        ('get: "/things/{data}"', "data is nothing that"),
        ('get: "/things" body: "*"', "GET has no body"),
        ('post: "/things" body: "name"', "Asked has no field name"),
        ('post: "/things/{inner.name}" body: "inner"', "both path and body fill inner"),
        ('get: "/things" response_body: "name"', "Answered has no field name"),
        ('custom: {kind: "HEAD" path: "/things"}', "the method must be one of get, put, post, delete, patch"),
        ('body: "*"', "the method must be one of"),
        (
            'get: "/a" additional_bindings: {get: "/b" additional_bindings: {get: "/c"}}',
            "additional bindings have none of their own",
        ),
    ],
)
def test_an_annotation_that_cannot_be_served_says_why(rule: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"waymesh\.odd\.v\d+\.OddService\.Do cannot be served as") as told:
        bound(rule)
    assert words in str(told.value)


def test_get_is_for_what_changes_nothing() -> None:
    with pytest.raises(ValueError, match="GET is for RPCs with NO_SIDE_EFFECTS"):
        bound('get: "/things"', level="IDEMPOTENT")


def test_a_stream_has_no_path() -> None:
    with pytest.raises(ValueError, match="a stream has no path"):
        bound('get: "/things"', stream="stream")


MORE = """rpc Other(Asked) returns (Answered) {
    option idempotency_level = NO_SIDE_EFFECTS;
    option (google.api.http) = {%s};
  }"""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('get: "/things/{id}"', 'get: "/things/{id}"'),
        ('get: "/things/{id}"', 'get: "/things/{inner.name}"'),
        ('get: "/things/all"', 'get: "/things/all"'),
        ('get: "/a" additional_bindings: {get: "/b/{id}/c"}', 'get: "/b/{inner.name}/c"'),
    ],
)
def test_two_rpcs_of_one_path_cannot_be_told_apart(one: str, other: str) -> None:
    found = bound(one, more=MORE % other)
    with pytest.raises(ValueError, match=r"/Do and .*/Other cannot be told apart: GET /.* and GET /"):
        Table(found)


def test_one_rpc_with_one_path_twice_cannot_either() -> None:
    with pytest.raises(ValueError, match="cannot be told apart"):
        Table(bound('get: "/a" additional_bindings: {get: "/a"}'))


def test_the_gateways_own_paths_are_taken() -> None:
    with pytest.raises(ValueError, match="cannot have the path /execute: it is taken"):
        Table(bound('post: "/execute"'), taken=["/execute"])


def test_texts_go_before_variables_and_a_way_that_ends_nowhere_is_left_again() -> None:
    table = Table(
        bound(
            'get: "/a/{id}/c" additional_bindings: {get: "/a/b/{id}"} '
            'additional_bindings: {get: "/a/b"} additional_bindings: {post: "/a/{id}" body: "*"} '
            'additional_bindings: {get: "/a/{id}/d/e"}'
        )
    )

    def found(path: bytes) -> list[tuple[list[str], tuple[bytes, ...]]]:
        return [(list(each.bindings), each.values) for each in table.find(path)]

    assert found(b"/a/x/c") == [(["GET"], (b"x",))]
    assert found(b"/a/b/c") == [(["GET"], (b"c",)), (["GET"], (b"b",))]
    assert found(b"/a/b/d/e") == [(["GET"], (b"b",))]
    assert found(b"/a/b") == [(["GET"], ()), (["POST"], (b"b",))]
    assert found(b"/a/%62") == [(["GET"], ()), (["POST"], (b"%62",))]
    assert found(b"/a/x%2Fc") == [(["POST"], (b"x%2Fc",))]
    for path in (b"", b"/", b"/a", b"/a/", b"/a//c", b"/a/x/c/", b"a/x/c", b"//a/x/c", b"/a/x/c/d/e/f", b"*"):
        assert found(path) == []


@pytest.mark.parametrize(
    ("rule", "told", "expected"),
    [
        ('post: "/a" body: "inner"', "inner.name", "name"),
        ('post: "/a" body: "inner"', "inner", ""),
        ('post: "/a" body: "inner"', "inner_name", "inner_name"),
        ('post: "/a" body: "ids"', "ids[3]", "[3]"),
        ('post: "/a/{id}" body: "inner"', "id", "id"),
        ('post: "/a" body: "*"', "inner.name", "inner.name"),
        ('post: "/a"', "inner.name", "inner.name"),
    ],
)
def test_what_the_owner_blames_is_named_as_the_client_sent_it(rule: str, told: str, expected: str) -> None:
    [binding] = bound(rule)
    assert binding.blame(FieldViolation(told, "x")) == FieldViolation(expected, "x")


def test_an_error_keeps_all_but_its_paths() -> None:
    [binding] = bound('post: "/a" body: "inner"')
    error = InvalidArgument("x", violations=[FieldViolation("inner.name", "is wrong")], retry_after_s=2.0)
    told = binding.translate(error)
    assert (told.message, told.retry_after_s) == ("name is wrong", 2.0)
    plain = NotFound("no such thing")
    assert binding.translate(plain) is plain


def test_a_template_is_shown_with_the_names_of_its_fields() -> None:
    parsed = template.parse("/a/{inner.name=*}/b-c.d~e")
    assert parsed.text == "/a/{inner.name}/b-c.d~e"
    assert parsed.fields == ("inner.name",)
