-- What somebody has to look at: each row is one time that something went wrong. The alert is protobuf in body, as it
-- was last told; columns are what is filtered and paged by. State is the number of AlertState.
CREATE TABLE alerts (
  alert_id text PRIMARY KEY,
  number bigint GENERATED ALWAYS AS IDENTITY,
  alert_key text NOT NULL,
  rule text NOT NULL,
  subject text NOT NULL,
  state smallint NOT NULL,
  raised_at timestamptz NOT NULL,
  resolved_at timestamptz,
  -- Whether it went to the topic when it was raised; only then does its end go there, too.
  published boolean NOT NULL,
  body bytea NOT NULL
);
-- One open alert per key, whatever two processes that both take themselves for the leader may do.
CREATE UNIQUE INDEX alerts_open ON alerts (alert_key) WHERE state = 1;
CREATE INDEX alerts_newest ON alerts (raised_at DESC, number DESC);
CREATE INDEX alerts_by_key ON alerts (alert_key, raised_at DESC, number DESC);
CREATE INDEX alerts_by_subject ON alerts (subject, raised_at DESC, number DESC);

-- Where the state machine of each key is: a phase, since when, and what each process last said of it.
CREATE TABLE alert_conditions (
  alert_key text PRIMARY KEY,
  rule text NOT NULL,
  source text NOT NULL,
  subject text NOT NULL,
  phase smallint NOT NULL,
  since timestamptz,
  state json NOT NULL
);

CREATE TABLE silences (
  alert_key text PRIMARY KEY,
  until timestamptz NOT NULL,
  comment text NOT NULL,
  author text NOT NULL,
  made_at timestamptz NOT NULL
);
INSERT INTO heads (kind, last) VALUES ('silence', 0);

-- How far signals have been judged. The token is another with each commit, so that a leader whose transaction was
-- undone, or who was overtaken, sees that what it remembers is not what is stored. Signals from before there were
-- alerts raise none.
CREATE TABLE alert_position (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  signal bigint NOT NULL,
  token text NOT NULL
);
INSERT INTO alert_position (signal, token) SELECT last, '' FROM heads WHERE kind = 'signal';
