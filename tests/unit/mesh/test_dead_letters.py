"""Letters fit into a topic whatever they are about, and tell only what happened to them."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.mesh.events import Message, PoisonMessage, Record
from services.mesh.events.dead_letters import ONLY_FOR, dead_letter, meant_for
from services.mesh.events.kafka_client import MAX_EVENT_BYTES
from services.mesh.events.letters import Letter
from services.mesh.events.tenants import tenant_of
from services.mesh.events.topics import DEAD_LETTERS
from services.mesh.principal import TENANT_KEY


def record(**more: object) -> Record:
    made = Record(
        topic="moves",
        key="k",
        value=b"v",
        event_id="a",
        type="T",
        headers={"tenant": "north"},
        partition=1,
        position=2,
        time=datetime(2026, 1, 1, tzinfo=UTC),
        source="app",
    )
    return replace(made, **more)  # type: ignore[arg-type]


def as_read(letter: Message) -> Record:
    return record(
        topic=letter.topic,
        key=letter.key,
        value=letter.value,
        event_id=letter.event_id,
        type=letter.type,
        headers=letter.headers,
    )


LARGE = "x" * (2 << 20)
ACME = {TENANT_KEY: "acme"}


@pytest.mark.parametrize(
    "died",
    [
        record(headers={"tenant": LARGE}),
        record(headers={f"name-{number}": "x" * 1000 for number in range(2000)}),
        record(headers={"dead-note": LARGE, "dead-omitted-bytes": LARGE}),
        record(key=LARGE),
        record(event_id=LARGE, source=LARGE),
        record(type=LARGE, content_type=LARGE),
    ],
    ids=["header", "headers", "forged", "key", "id", "type"],
)
def test_a_letter_without_its_value_is_small_enough_whatever_died(died: Record) -> None:
    letter = dead_letter(as_read(dead_letter(died, "broken", "g")), "too large for Kafka", "kafka-relay")
    size = len(letter.key) + len(letter.type) + len(letter.content_type)
    size += sum(len(name) + len(text) for name, text in letter.headers.items())
    assert size < MAX_EVENT_BYTES // 10
    told = Letter.of(as_read(letter))
    assert letter.topic == DEAD_LETTERS
    assert (told.topic, told.partition, told.position, told.group) == ("moves", 1, 2, "g")
    assert told.reason == "broken; the letter is too large for Kafka"


def test_a_letter_without_its_value_is_still_its_tenants() -> None:
    letter = dead_letter(as_read(dead_letter(record(headers=ACME), "broken", "g")), "too large")
    assert tenant_of(as_read(letter)) == "acme"


def test_nor_is_what_names_nobody_made_into_a_name() -> None:
    letter = dead_letter(
        as_read(dead_letter(record(headers={TENANT_KEY: LARGE}), "broken", "g")), "too large"
    )
    with pytest.raises(PoisonMessage, match="names no tenant"):
        tenant_of(as_read(letter))


def test_a_letter_tells_of_no_earlier_death() -> None:
    died = record(headers={"tenant": "north", "dead-omitted-bytes": "7", ONLY_FOR: "g"})
    told = Letter.of(as_read(dead_letter(died, "broken", "g")))
    assert (told.omitted_bytes, dict(told.headers)) == (0, {"tenant": "north"})


def test_what_is_sent_back_is_for_one_group_and_as_it_was() -> None:
    plain, back = record(), record(headers={"tenant": "north", ONLY_FOR: "g"})
    assert meant_for("other", [plain, back]) == [plain]
    assert meant_for("g", [plain, back]) == [plain, plain]
    records = [plain]
    assert meant_for("other", records) is records
