-- A process that has runs under way says every few seconds that it is there. One that has not said so until
-- expires_at, by the clock of the database, may be ended by any other.
CREATE TABLE processes (
  process_id uuid PRIMARY KEY,
  expires_at timestamptz NOT NULL
);

-- `id` is made of tenant and run_id: runs of several tenants may have the same run_id. `status` is the number of
-- RunStatus, 1 while the run is under way. What has its own form in the contract is kept as protobuf. `usage` is
-- NULL until the process that had the run has said what it did: it may come too late to say how it ended.
CREATE TABLE runs (
  id uuid PRIMARY KEY,
  tenant text NOT NULL,
  run_id text NOT NULL,
  key text NOT NULL,
  agent_id text NOT NULL,
  agent_name text NOT NULL,
  agent_version integer NOT NULL,
  task text NOT NULL,
  workflow_id text NOT NULL,
  request_hash bytea NOT NULL,
  input bytea NOT NULL,
  process_id uuid NOT NULL,
  created_at timestamptz NOT NULL,
  status smallint NOT NULL DEFAULT 1,
  ended_at timestamptz,
  ended_by uuid,
  cancelled_elsewhere boolean NOT NULL DEFAULT false,
  answer text NOT NULL DEFAULT '',
  output bytea,
  response bytea,
  error bytea,
  degradation bytea,
  usage bytea,
  steps bytea,
  told bytea
);
CREATE INDEX runs_newest ON runs (tenant, created_at DESC, id DESC);
CREATE INDEX runs_by_agent ON runs (tenant, agent_id, created_at DESC, id DESC);
CREATE INDEX runs_by_agent_name ON runs (tenant, agent_name, created_at DESC, id DESC);
CREATE INDEX runs_oldest ON runs (created_at);
CREATE INDEX runs_under_way ON runs (process_id) WHERE status = 1;
CREATE INDEX runs_cancelled_elsewhere ON runs (process_id) WHERE cancelled_elsewhere;
