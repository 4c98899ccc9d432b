-- The log. Positions of a partition are dense and in the order of commits, because a publisher holds the
-- partition's row in `heads` until its transaction ends: a reader that has seen position n will never find
-- anything new at or below n.

CREATE TABLE topics (
  name text PRIMARY KEY,
  compacted boolean NOT NULL,
  retention interval            -- null: kept for ever
);

-- `part` numbers the partitions of all topics.
CREATE TABLE partitions (
  part integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  topic text NOT NULL REFERENCES topics (name),
  partition integer NOT NULL,
  compacted_to bigint NOT NULL DEFAULT 0,   -- position up to which the last compaction looked
  kept bigint NOT NULL DEFAULT 0,           -- events it left
  UNIQUE (topic, partition)
);

-- Updated by every publish: narrow, with room on the page for its next version.
CREATE TABLE heads (
  part integer PRIMARY KEY REFERENCES partitions (part),
  last bigint NOT NULL DEFAULT 0            -- position of the newest event
) WITH (fillfactor = 25);

-- Type, content type and source come in few combinations; an event holds their number.
CREATE TABLE kinds (
  kind smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  type text NOT NULL,
  content_type text NOT NULL,
  source text NOT NULL,
  UNIQUE (type, content_type, source)
);

CREATE TABLE log (
  position bigint NOT NULL,
  time timestamptz NOT NULL,
  part integer NOT NULL,
  kind smallint NOT NULL,
  key text NOT NULL,
  event_id text NOT NULL,
  value bytea NOT NULL,
  headers text,                             -- JSON object of text; null: none
  PRIMARY KEY (part, position)
) WITH (
  autovacuum_vacuum_scale_factor = 0.05,
  autovacuum_vacuum_cost_delay = 1,
  autovacuum_analyze_scale_factor = 0.5
);

-- Messages come sorted by partition: `touched` holds the partitions in ascending order, `counts` how many
-- messages each gets, `skipped` how many come before its first, `slots` for each message the place of its
-- partition in `touched`.
CREATE FUNCTION publish(
  touched integer[], skipped bigint[], counts bigint[],
  slots integer[], kinds smallint[], keys text[], event_ids text[], payloads bytea[], extras text[]
) RETURNS void LANGUAGE plpgsql SET search_path = bus AS $$
DECLARE
  bases bigint[];
  taken timestamptz;
BEGIN
  -- Locked in one order everywhere, so that two publishers cannot wait for each other.
  SELECT array_agg(l.last) INTO bases FROM (
    SELECT last FROM heads WHERE part = ANY (touched) ORDER BY part FOR UPDATE) AS l;
  taken := clock_timestamp();
  INSERT INTO log (position, time, part, kind, key, event_id, value, headers)
  SELECT bases[m.slot] - skipped[m.slot] + m.place, taken, touched[m.slot],
    m.kind, m.key, m.event_id, m.value, m.headers
  FROM unnest(slots, kinds, keys, event_ids, payloads, extras) WITH ORDINALITY
    AS m (slot, kind, key, event_id, value, headers, place);
  UPDATE heads SET last = last + t.n FROM unnest(touched, counts) AS t (part, n) WHERE heads.part = t.part;
END $$;

-- Up to `most` events of each partition after its position, in order. The settings keep the plan on the
-- primary key: a plan made while the table was small would otherwise stay in use when it is large.
CREATE FUNCTION read(parts integer[], positions bigint[], most integer)
RETURNS TABLE (
  part integer, "position" bigint, "time" timestamptz, kind smallint, key text, event_id text, value bytea, headers text
) LANGUAGE plpgsql STABLE
SET search_path = bus SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
BEGIN
  RETURN QUERY
  SELECT l.part, l.position, l.time, l.kind, l.key, l.event_id, l.value, l.headers
  FROM unnest(parts, positions) AS p (part, seen)
  CROSS JOIN LATERAL (
    SELECT * FROM log WHERE log.part = p.part AND log.position > p.seen ORDER BY log.position LIMIT most
  ) AS l;
END $$;
