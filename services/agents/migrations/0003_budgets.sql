-- What a key or an agent has spent on a day (UTC), and what is set aside for calls under way. Amounts of money
-- are billionths of a US dollar. Limits are not kept here: they are what they are when somebody asks to spend.
CREATE TABLE spending (
  day date NOT NULL,
  tenant text NOT NULL,
  kind smallint NOT NULL, -- 1: key, 2: agent
  name text NOT NULL, -- the key's or the agent's identity
  label text NOT NULL, -- how it is called
  spent_nano_usd bigint NOT NULL DEFAULT 0,
  spent_tokens bigint NOT NULL DEFAULT 0,
  reserved_nano_usd bigint NOT NULL DEFAULT 0,
  reserved_tokens bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (day, tenant, kind, name),
  CHECK (reserved_nano_usd >= 0 AND reserved_tokens >= 0)
);

-- What is set aside for one call, from the key, the agent or both (empty: not from that one). It goes when the
-- call is settled, or is charged in full when its process has gone.
CREATE TABLE holds (
  hold_id uuid PRIMARY KEY,
  process_id uuid NOT NULL,
  day date NOT NULL,
  tenant text NOT NULL,
  key text NOT NULL,
  agent_id text NOT NULL,
  nano_usd bigint NOT NULL,
  tokens bigint NOT NULL
);
CREATE INDEX holds_by_process ON holds (process_id);

-- Settles calls, then sets aside for others, in the order given: each from its key and its agent, or from none.
-- A limit is NULL where there is none; key or agent is empty where nothing is to be set aside from it. For each
-- that asks to set aside: 0 if it may, else what was in the way: 1, 2 money and tokens of the key, 3, 4 of the
-- agent. A hold that is there already stays as it is, and one that is not there is settled already: the same
-- again changes nothing. Rows of holds are locked before those of spending, and those all at once in the order of
-- their key, as everybody does who writes them: processes wait for each other and never in a circle.
CREATE FUNCTION settle_and_reserve(
  settled uuid[], settled_nano_usd bigint[], settled_tokens bigint[],
  process uuid, today date,
  ids uuid[], tenants text[], nano_usds bigint[], tokenses bigint[],
  keys text[], key_labels text[], key_nano_limits bigint[], key_token_limits bigint[],
  agents text[], agent_labels text[], agent_nano_limits bigint[], agent_token_limits bigint[]
) RETURNS smallint[] LANGUAGE plpgsql AS $$
DECLARE
  answers smallint[] := '{}';
  answer smallint;
BEGIN
  today := coalesce(today, (now() AT TIME ZONE 'UTC')::date);

  WITH mine AS MATERIALIZED (
    SELECT day, tenant, key, agent_id FROM holds WHERE hold_id = ANY(settled) ORDER BY hold_id FOR UPDATE
  ), touched AS (
    SELECT day, tenant, 1 AS kind, key AS name, '' AS label FROM mine
    UNION ALL
    SELECT day, tenant, 2, agent_id, '' FROM mine
    UNION ALL
    SELECT today, tenant, 1, name, label FROM unnest(tenants, keys, key_labels) AS k (tenant, name, label)
    UNION ALL
    SELECT today, tenant, 2, name, label FROM unnest(tenants, agents, agent_labels) AS a (tenant, name, label)
  )
  INSERT INTO spending AS s (day, tenant, kind, name, label)
  SELECT day, tenant, kind, name, max(label) FROM touched WHERE name <> ''
  GROUP BY day, tenant, kind, name ORDER BY day, tenant, kind, name
  -- What is there is locked, whether or not its label changes.
  ON CONFLICT (day, tenant, kind, name) DO UPDATE SET label = excluded.label
    WHERE excluded.label <> '' AND excluded.label <> s.label;

  IF cardinality(settled) > 0 THEN
    WITH given AS (
      SELECT DISTINCT ON (hold_id) *
      FROM unnest(settled, settled_nano_usd, settled_tokens) AS g (hold_id, nano_usd, tokens)
    ), gone AS (
      DELETE FROM holds h USING given g WHERE h.hold_id = g.hold_id
      RETURNING h.*, g.nano_usd AS took_nano_usd, g.tokens AS took_tokens
    ), parts AS (
      SELECT day, tenant, 1 AS kind, key AS name, nano_usd, tokens, took_nano_usd, took_tokens
      FROM gone WHERE key <> ''
      UNION ALL
      SELECT day, tenant, 2, agent_id, nano_usd, tokens, took_nano_usd, took_tokens FROM gone WHERE agent_id <> ''
    ), sums AS (
      SELECT day, tenant, kind, name, sum(nano_usd) AS nano_usd, sum(tokens) AS tokens,
        sum(took_nano_usd) AS took_nano_usd, sum(took_tokens) AS took_tokens
      FROM parts GROUP BY day, tenant, kind, name
    )
    UPDATE spending s SET
      spent_nano_usd = s.spent_nano_usd + g.took_nano_usd,
      spent_tokens = s.spent_tokens + g.took_tokens,
      reserved_nano_usd = s.reserved_nano_usd - g.nano_usd,
      reserved_tokens = s.reserved_tokens - g.tokens
    FROM sums g
    WHERE (s.day, s.tenant, s.kind, s.name) = (g.day, g.tenant, g.kind, g.name);
  END IF;

  FOR n IN 1 .. cardinality(ids) LOOP
    SELECT coalesce(min(CASE
      WHEN kind = 1 AND spent_nano_usd + reserved_nano_usd + nano_usds[n] > key_nano_limits[n] THEN 1
      WHEN kind = 1 AND spent_tokens + reserved_tokens + tokenses[n] > key_token_limits[n] THEN 2
      WHEN kind = 2 AND spent_nano_usd + reserved_nano_usd + nano_usds[n] > agent_nano_limits[n] THEN 3
      WHEN kind = 2 AND spent_tokens + reserved_tokens + tokenses[n] > agent_token_limits[n] THEN 4
    END), 0) INTO answer
    FROM spending WHERE day = today AND tenant = tenants[n]
      AND ((kind = 1 AND name = keys[n]) OR (kind = 2 AND name = agents[n]));
    IF answer = 0 THEN
      INSERT INTO holds (hold_id, process_id, day, tenant, key, agent_id, nano_usd, tokens)
      VALUES (ids[n], process, today, tenants[n], keys[n], agents[n], nano_usds[n], tokenses[n])
      ON CONFLICT DO NOTHING;
      IF FOUND THEN
        UPDATE spending SET
          reserved_nano_usd = reserved_nano_usd + nano_usds[n],
          reserved_tokens = reserved_tokens + tokenses[n]
        WHERE day = today AND tenant = tenants[n]
          AND ((kind = 1 AND name = keys[n]) OR (kind = 2 AND name = agents[n]));
      END IF;
    END IF;
    answers := answers || answer;
  END LOOP;
  RETURN answers;
END $$;
