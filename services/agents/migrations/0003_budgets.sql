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
