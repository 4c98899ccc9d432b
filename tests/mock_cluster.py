"""The Kafka cluster inside librdkafka: three brokers on sockets, for where no real one is to be had."""

from confluent_kafka import Producer

from tools.kafka.look import Look


class MockCluster:
    """Lives as long as this object. It makes a topic of four partitions of whatever name it hears."""

    def __init__(self) -> None:
        self._owner = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 3, "log_level": 2})
        brokers = self._owner.list_topics(timeout=10).brokers.values()
        self.bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)

    @property
    def look(self) -> Look:
        """What lies in it."""
        return Look(bootstrap_servers=self.bootstrap_servers)
