"""Which request events follow from."""

from datetime import UTC, datetime

import pytest

from services.mesh.events import Record, cause_of, causes_of, common_cause
from services.mesh.request_id import headers, headers_of, serving


def record(request_id: str | None) -> Record:
    extra = {} if request_id is None else {"x-request-id": request_id}
    return Record("moves", "k", b"", "e", "t", headers=extra, partition=0, position=1, time=datetime.now(UTC))


@pytest.mark.parametrize(
    ("ids", "cause"),
    [
        ([], ""),
        ([None], ""),
        (["a"], "a"),
        (["a", "a"], "a"),
        (["a", "b"], ""),
        (["a", None], ""),
        ([None, "a"], ""),
        (["a b"], ""),
        (["a", "b", "a"], ""),
        (["x" * 129], ""),
    ],
)
def test_several_events_follow_from_one_request_or_from_none(ids: list[str | None], cause: str):
    assert common_cause([record(one) for one in ids]) == cause


def test_each_thing_has_the_cause_that_all_its_events_have():
    about = (("a", "1"), ("a", "1"), ("b", "1"), ("b", "2"), ("b", "1"), ("c", None))
    causes = causes_of((thing, record(request_id)) for thing, request_id in about)
    assert causes == {"a": "1", "b": "", "c": ""}


def test_events_of_one_request_share_what_says_so():
    with serving("mine"):
        assert headers() is headers()
        assert headers() == {"x-request-id": "mine"}
        with serving(""):
            assert headers() == {}
    assert headers() == headers_of("not\nan id") == {}
    assert cause_of(record("mine")) == "mine"
