"""Keys go where Kafka's own clients put them."""

import pytest
from aiokafka.partitioner import murmur2 as one_by_one
from hypothesis import given
from hypothesis import strategies as st

from services.mesh.events.kafka_partitioner import murmur2, partitions_of


@given(st.lists(st.binary(max_size=70), max_size=40))
def test_hashes_of_many_keys_equal_those_of_each(keys: list[bytes]) -> None:
    assert murmur2(keys).tolist() == [one_by_one(key) for key in keys]


@given(st.lists(st.text(max_size=20).map(str.encode), min_size=1, max_size=20), st.integers(1, 24))
def test_partitions_are_those_of_the_default_partitioner(keys: list[bytes], partitions: int) -> None:
    expected = [(one_by_one(key) & 0x7FFFFFFF) % partitions for key in keys]
    assert partitions_of(keys, partitions) == expected


def test_a_topic_without_partitions_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one partition"):
        partitions_of([b"key"], 0)
