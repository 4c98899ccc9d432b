-- Outcomes by the day on which they arrived, so that a day kept long enough goes as a whole. The day is that of
-- arrival, not the event's own: recordings of long ago are replayed, and are kept as long as all others.
-- The identity is the id alone, whatever the day, and lives in a table of its own.
ALTER TABLE outcomes RENAME TO outcomes_before;

-- What lists filter by and windows are made of stands in columns; the record itself is protobuf in body.
CREATE TABLE outcomes (
  number bigint NOT NULL,
  stored_at timestamptz NOT NULL,
  at timestamptz NOT NULL,                  -- the event's own time
  id text COLLATE "C" NOT NULL,
  agent_name text COLLATE "C" NOT NULL,
  status smallint NOT NULL,
  severity smallint NOT NULL,
  workflow_id text COLLATE "C" NOT NULL,    -- '': none, here and below
  latency_ms float8 NOT NULL,
  error_type text COLLATE "C" NOT NULL,
  tokens_used bigint NOT NULL,
  cost_estimate float8 NOT NULL,
  started timestamptz,
  ended timestamptz,
  body bytea NOT NULL
) PARTITION BY RANGE (stored_at);
CREATE INDEX outcomes_by_number ON outcomes (number);
CREATE INDEX outcomes_by_time ON outcomes (at DESC, number DESC);
CREATE INDEX outcomes_of_agent ON outcomes (agent_name, at DESC, number DESC);
CREATE INDEX outcomes_of_workflow ON outcomes (workflow_id, at DESC, number DESC) WHERE workflow_id <> '';

-- `number` is the outcome's: an id goes when the day goes that holds it.
CREATE TABLE outcome_ids (
  id text COLLATE "C" PRIMARY KEY,
  digest bytea NOT NULL,
  number bigint NOT NULL
);

-- Makes the partition of a day (UTC) unless it is there. Attaching, unlike creating it in place, keeps neither
-- readers nor writers of other days waiting.
CREATE FUNCTION make_outcomes_of(day date) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  name text := 'outcomes_' || to_char(day, 'YYYYMMDD');
BEGIN
  IF to_regclass(name) IS NOT NULL THEN
    RETURN;
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('feedback.outcomes'), 0);
  IF to_regclass(name) IS NOT NULL THEN
    RETURN;
  END IF;
  EXECUTE format('CREATE TABLE %I (LIKE outcomes INCLUDING ALL)', name);
  EXECUTE format('ALTER TABLE outcomes ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
    name, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
END $$;

-- Begins to store outcomes with these ids, which differ: takes the head for the rest of the transaction and as
-- many numbers as there are new ids, `first` being the first of them; tells what is known of the others, and
-- sees that the day's partition is there. The clock is the database's, one for all replicas, unless a time is
-- given. The settings keep the plan on the primary key: one made while the table was small would stay in use.
CREATE FUNCTION begin_outcomes(
  ids text[], given timestamptz, OUT first bigint, OUT arrived timestamptz, OUT known text[], OUT digests bytea[]
) LANGUAGE plpgsql SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
  SELECT last + 1 INTO first FROM heads WHERE kind = 'outcome' FOR UPDATE;
  arrived := coalesce(given, clock_timestamp());
  -- A statement of its own: it sees what the last holder of the head has committed.
  SELECT coalesce(array_agg(i.id), '{}'), coalesce(array_agg(i.digest), '{}') INTO known, digests
  FROM outcome_ids i WHERE i.id = ANY (ids);
  IF cardinality(ids) > cardinality(known) THEN
    UPDATE heads SET last = last + cardinality(ids) - cardinality(known) WHERE kind = 'outcome';
    PERFORM make_outcomes_of((arrived AT TIME ZONE 'UTC')::date);
  END IF;
END $$;

-- When the outcomes of before arrived is not known: they are kept as if it were now. Windows are made of what
-- comes from here on, so the columns that only they read need not be right for these.
SELECT make_outcomes_of((now() AT TIME ZONE 'UTC')::date);
INSERT INTO outcomes (number, stored_at, at, id, agent_name, status, severity, workflow_id,
  latency_ms, error_type, tokens_used, cost_estimate, body)
SELECT number, now(), at, id, agent_name, status,
  CASE status WHEN 2 THEN 3 WHEN 4 THEN 3 WHEN 3 THEN 2 ELSE 1 END, workflow_id, 0, '', 0, 0, body
FROM outcomes_before;
-- Digests are the first 16 bytes of what they were.
INSERT INTO outcome_ids (id, digest, number) SELECT id, substring(digest FOR 16), number FROM outcomes_before;
DROP TABLE outcomes_before;
