"""Apache Kafka itself for tests and benches: KRaft nodes on loopback, and a look at what lies in them."""
