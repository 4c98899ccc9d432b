"""Which streaming RPCs can tell of a task."""

import pytest

from services.gateway import tasks
from tests.probe_contract import contract

CONTRACT = """
syntax = "proto3";
package waymesh.odd.s%d;
import "waymesh/task/v1/task.proto";
message Asked { string id = 1; }
message Other { string id = 1; }
message Answered { string id = 1; }
message Follow { oneof start { Asked asked = 1; Other other = 2; } repeated Asked many = 3; %s cursor = 4; }
message Happened { %s cursor = 1; %s }
service OddService {
  rpc Do(Asked) returns (Answered) {
    option (waymesh.task.v1.task) = {name: "do" stream: {method: "%s" field: "%s"}};
  }
  rpc Watch(Follow) returns (stream Happened);
  rpc Both(stream Follow) returns (stream Happened);
}
"""
ONE = "oneof event { Answered result = 2; Other error = 3; }"
_packages = iter(range(10_000))


def task(
    *,
    request: str = "string",
    response: str = "string",
    events: str = ONE,
    method: str = "Watch",
    field: str = "asked",
) -> tasks.Task:
    file = contract(CONTRACT % (next(_packages), request, response, events, method, field))
    [service] = file.services_by_name.values()
    found = tasks._task(file, service.methods_by_name["Do"])
    assert found is not None
    return found


def test_a_task_names_the_rpc_that_tells_of_it() -> None:
    stream = task().stream
    assert stream is not None
    assert (stream.path.rpartition("/")[2], stream.field, stream.events) == ("Watch", "asked", "event")
    assert (stream.max_cursor, stream.repeatable) == (256, False)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"method": "Nothing"}, "Nothing is no RPC of its service that streams its response"),
        ({"method": "Do"}, "Do is no RPC of its service that streams"),
        ({"method": "Both"}, "Both is no RPC of its service that streams"),
        ({"field": "other"}, "Follow.other does not take Asked"),
        ({"field": "many"}, "Follow.many does not take Asked"),
        ({"field": "none"}, "Follow.none does not take Asked"),
        ({"request": "int32"}, "need a text `cursor`"),
        ({"response": "repeated string"}, "need a text `cursor`"),
        ({"events": ""}, "Happened has 0 oneofs, where one names the event"),
        ({"events": f"{ONE} oneof more {{ Asked a = 4; Asked b = 5; }}"}, "Happened has 2 oneofs"),
    ],
)
def test_one_that_cannot_says_why(changed: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match="task do: ") as told:
        task(**changed)
    assert words in str(told.value)


def test_an_optional_field_is_no_event() -> None:
    assert task(events=f"{ONE} optional string note = 9;").stream is not None
