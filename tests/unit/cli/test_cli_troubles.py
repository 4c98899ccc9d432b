"""What the services say is wrong around them, told once per cause."""

import json
import logging

import pytest

from services.cli.troubles import Troubles
from services.mesh.events.kafka_client import KafkaOptions
from services.mesh.events.kafka_probe import Cluster, ClusterUnusableError
from services.mesh.events.kafka_watch import KafkaWatch
from services.mesh.events.topics import TOPICS
from services.mesh.logs import JsonFormatter

AWAY = "the Kafka cluster at k:1 cannot be used: refuses connections"
AGAIN = "can be used again after 3 s"


def line(message: str, **fields: str) -> bytes:
    return json.dumps({"level": "WARNING", "message": message, "fields": fields}).encode()


class Heard:
    """Troubles, and what they told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str]] = []
        self.troubles = Troubles(lambda *what: self.told.append(what))


def test_a_cause_is_told_once_and_once_when_the_last_service_is_over_it() -> None:
    heard = Heard()
    for service in ("eta", "route", "eta"):
        heard.troubles.hear(service, line(AWAY, trouble="kafka.away"))
    assert heard.told == [("kafka", "failing", AWAY)]
    assert heard.troubles.lasting == [("kafka", AWAY)]
    heard.troubles.hear("eta", line(AGAIN, over="kafka.away"))
    assert len(heard.told) == 1
    heard.troubles.hear("route", line(AGAIN, over="kafka.away"))
    assert heard.told[1:] == [("kafka", "ready", AGAIN)]
    assert heard.troubles.lasting == []
    heard.troubles.hear("eta", line(AWAY, trouble="kafka.away"))
    assert heard.told[2:] == [("kafka", "failing", AWAY)]


def test_other_words_and_other_causes_are_told_as_well() -> None:
    heard = Heard()
    heard.troubles.hear("eta", line("lacks a, b", trouble="kafka.missing"))
    heard.troubles.hear("eta", line("lacks b", trouble="kafka.missing"))
    heard.troubles.hear("eta", line("no leader", trouble="kafka.leaderless"))
    assert [words for _, _, words in heard.told] == ["lacks a, b", "lacks b", "no leader"]
    assert heard.troubles.lasting == [("kafka", "lacks b"), ("kafka", "no leader")]


def test_a_service_that_begins_anew_holds_no_trouble() -> None:
    heard = Heard()
    heard.troubles.hear("eta", line(AWAY, trouble="kafka.away"))
    heard.troubles.forget("eta")
    assert heard.troubles.lasting == []


@pytest.mark.parametrize(
    "other", [b"Traceback", b'{"trouble": 1', b'["over": ]', b'["trouble": "x"]', b'{"fields": 3, "over": 1}']
)
def test_any_other_line_is_let_be(other: bytes) -> None:
    heard = Heard()
    heard.troubles.hear("eta", other)
    assert heard.told == []


async def test_the_lines_of_the_watch_are_heard(caplog: pytest.LogCaptureFixture) -> None:
    full = Cluster(3, {name: topic.partitions for name, topic in TOPICS.items()}, ())
    less = Cluster(3, {name: 1 for name in full.partitions if name != "orders"}, ("gps-events",))
    answers: list[Cluster | Exception] = [
        ClusterUnusableError("k:1 refuses connections", refused=False), less, full,
    ]  # fmt: skip

    async def look(*_: object) -> Cluster:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    watch = KafkaWatch(KafkaOptions("k:1"), TOPICS, look=look)
    with caplog.at_level(logging.INFO):
        while answers:
            await watch.check()
    heard = Heard()
    for record in caplog.records:
        heard.troubles.hear("eta", JsonFormatter("eta").format(record).encode())
    assert [(place, state) for place, state, _ in heard.told] == [
        ("kafka", state) for state in ("failing", "ready", "failing", "failing", "ready", "ready")
    ]
    assert "fewer partitions" not in "".join(words for _, _, words in heard.told)
    assert heard.troubles.lasting == []
