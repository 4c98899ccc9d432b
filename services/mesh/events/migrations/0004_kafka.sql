-- With Kafka the log is the outbox: the relay sends its events on, in order, and deletes them. Where a group
-- stands in Kafka is kept here, in the transaction of the handler's effects; Kafka's own offset follows.

CREATE TABLE kafka_offsets (
  group_name text NOT NULL,
  topic text NOT NULL,
  partition integer NOT NULL,
  next bigint NOT NULL,                     -- offset of the next record to handle
  PRIMARY KEY (group_name, topic, partition)
) WITH (fillfactor = 25);

-- A producer that lost a broker or its own process may send an event twice, shortly after the first time.
CREATE TABLE kafka_seen (
  group_name text NOT NULL,
  digest bytea NOT NULL,                    -- of topic, source and event id
  seen_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (group_name, digest)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX kafka_seen_by_time ON kafka_seen USING brin (seen_at);
