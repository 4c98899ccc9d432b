"""What an Accept header asks for."""

import pytest

from services.gateway.accept import preference


@pytest.mark.parametrize(
    ("accept", "events", "json"),
    [
        (b"", 0, 0),
        (b"*/*", 0, 1),
        (b"text/*", 0, 0),
        (b"application/json", 0, 1),
        (b"text/event-stream", 1, 0),
        (b"Text/Event-Stream; charset=utf-8", 1, 0),
        (b"text/event-stream, application/json", 1, 1),
        (b"text/event-stream;q=0.5,application/*;q=0.9", 0.5, 0.9),
        (b"text/event-stream;q=0, */*", 0, 1),
        (b"text/event-stream, application/json;q=0, */*", 1, 0),
        (b"text/event-stream;q=1.000 , */* ; q=0.001", 1, 0.001),
        (b"text/event-stream;q=2", 1, 0),
        (b"text/event-streams", 0, 0),
        (b",,;,;q=1", 0, 0),
    ],
)
def test_events_are_asked_for_by_name_and_json_by_any_range(
    accept: bytes, events: float, json: float
) -> None:
    found = preference(accept)
    assert (found.events, found.json) == (events, json)
