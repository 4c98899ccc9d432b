-- Every kind of record has its own dense numbers: a writer locks the kind's row, numbers what is new and commits.
-- So the order of numbers is the order of commits, and a reader that has seen number n never misses one below.
CREATE TABLE heads (
  kind text PRIMARY KEY,
  last bigint NOT NULL
);
INSERT INTO heads (kind, last) VALUES ('outcome', 0), ('delivery', 0), ('signal', 0);

-- Columns are what is filtered by; the record itself is protobuf in body. The identity is the event_id alone:
-- partitions by time would need it as (event_id, timestamp).
CREATE TABLE outcomes (
  number bigint PRIMARY KEY,
  id text NOT NULL UNIQUE,
  digest bytea NOT NULL,
  at timestamptz NOT NULL,
  agent_name text NOT NULL,
  status smallint NOT NULL,
  workflow_id text NOT NULL,
  body bytea NOT NULL
);
CREATE INDEX outcomes_newest ON outcomes (at DESC, number DESC);
CREATE INDEX outcomes_by_agent ON outcomes (agent_name, at DESC, number DESC);
CREATE INDEX outcomes_by_workflow ON outcomes (workflow_id, at DESC, number DESC) WHERE workflow_id <> '';

CREATE TABLE deliveries (
  number bigint PRIMARY KEY,
  id text NOT NULL UNIQUE,
  digest bytea NOT NULL,
  at timestamptz NOT NULL,
  order_id text NOT NULL,
  driver_id text NOT NULL,
  body bytea NOT NULL
);
CREATE INDEX deliveries_by_order ON deliveries (order_id, number);
CREATE INDEX deliveries_by_driver ON deliveries (driver_id, number);

CREATE TABLE signals (
  number bigint PRIMARY KEY,
  id text NOT NULL UNIQUE,
  digest bytea NOT NULL,
  at timestamptz NOT NULL,
  kind smallint NOT NULL,
  source text NOT NULL,
  subject text NOT NULL,
  active boolean NOT NULL,
  body bytea NOT NULL
);
CREATE INDEX signals_by_subject ON signals (kind, source, subject, at DESC);
