"""The Kafka cluster inside librdkafka: three brokers on sockets, and a look at what lies in them."""

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

_LOOK_S = 5.0
PARTITIONS = 4
"""Of a topic that nobody created."""


class MockCluster:
    """Lives as long as this object."""

    def __init__(self) -> None:
        self._owner = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 3, "log_level": 2})
        brokers = self._owner.list_topics(timeout=10).brokers.values()
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    def committed(self, group: str, topic: str) -> int:
        """How many records of a topic a group has told the cluster that it has handled."""
        reader = self._reader(group)
        try:
            places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
            return sum(max(0, place.offset) for place in reader.committed(places, timeout=_LOOK_S))
        except KafkaException:
            return 0  # the group's coordinator is not there yet
        finally:
            reader.close()

    def keys(self, topic: str) -> list[str]:
        """The keys of all records of a topic; none if nobody has named it to the cluster yet."""
        if topic not in self._owner.list_topics(timeout=_LOOK_S).topics:
            return []
        reader = self._reader("tests")
        try:
            found: list[str] = []
            for number in range(PARTITIONS):
                place = TopicPartition(topic, number, 0)
                _, end = reader.get_watermark_offsets(place, timeout=_LOOK_S)
                reader.assign([place])
                read: list[Message] = reader.consume(end, timeout=_LOOK_S) if end else []
                found += [(record.key() or b"").decode() for record in read]
            return found
        finally:
            reader.close()

    def _reader(self, group: str) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "group.id": group,
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "log_level": 2,
            }
        )
