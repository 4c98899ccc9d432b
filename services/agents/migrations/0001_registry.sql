-- Every change of any agent takes the one head row, numbers itself and commits. So the order of numbers is the
-- order of commits, and who follows the changes never misses one below a number he has seen.
CREATE TABLE registry_head (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  last bigint NOT NULL
);
INSERT INTO registry_head (last) VALUES (0);

-- Agents as they are now. `changed` is the number of the last change. `first_name` is the name in version 1, from
-- which identities are made. Built-in agents belong to one tenant, and all others see them.
CREATE TABLE agents (
  tenant text COLLATE "C" NOT NULL,
  agent_id text COLLATE "C" NOT NULL,
  name text COLLATE "C" NOT NULL,
  first_name text COLLATE "C" NOT NULL,
  built_in boolean NOT NULL,
  version bigint NOT NULL,
  changed bigint NOT NULL UNIQUE,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  deleted_at timestamptz,
  PRIMARY KEY (tenant, agent_id)
);
CREATE UNIQUE INDEX agents_living_names ON agents (tenant, name) WHERE deleted_at IS NULL;
CREATE INDEX agents_listed ON agents (tenant, name, built_in, agent_id);
CREATE INDEX agents_by_id ON agents (agent_id);
CREATE INDEX agents_by_name ON agents (name, tenant);
CREATE INDEX agents_by_first_name ON agents (tenant, first_name);
CREATE UNIQUE INDEX agents_built_in ON agents (agent_id) WHERE built_in;

-- Every version that ever was. `change` is an AgentChange, `spec` an AgentSpec in protobuf; `by_software` tells
-- what Waymesh itself wrote from what people did.
CREATE TABLE agent_versions (
  tenant text COLLATE "C" NOT NULL,
  agent_id text COLLATE "C" NOT NULL,
  version bigint NOT NULL CHECK (version >= 1),
  change smallint NOT NULL,
  reverted_to bigint NOT NULL,              -- 0: the change was no revert
  capability_id text NOT NULL,              -- '': the change added no capability
  by_software boolean NOT NULL,
  changed_by text NOT NULL,
  changed_at timestamptz NOT NULL,
  spec bytea NOT NULL,
  PRIMARY KEY (tenant, agent_id, version),
  FOREIGN KEY (tenant, agent_id) REFERENCES agents
);

CREATE FUNCTION refuse_to_change_history() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'versions of agents never change' USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER versions_stay BEFORE UPDATE OR DELETE ON agent_versions
  FOR EACH ROW EXECUTE FUNCTION refuse_to_change_history();
CREATE TRIGGER versions_stay_all BEFORE TRUNCATE ON agent_versions
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_to_change_history();

-- Begins a change: takes the head for the rest of the transaction. The clock is the database's, one for all
-- processes, and read after the wait; which ends before a process that hangs in a change keeps all others from
-- saying that they cannot.
CREATE FUNCTION begin_change(OUT number bigint, OUT at timestamptz) LANGUAGE plpgsql
SET lock_timeout = '5s' AS $$
BEGIN
  SELECT last + 1 INTO number FROM registry_head FOR UPDATE;
  at := clock_timestamp();
END $$;
