-- Windows of what outcomes came to, as they are known now. revision: times it was published, 0 while it is open.
-- made_at tells when it was first written: that it is kept by, since recordings of long ago are replayed. It is
-- never updated, nor is any other column of an index, so that writing a window anew need not touch the indexes.
CREATE TABLE windows (
  window_name text COLLATE "C" NOT NULL,
  start_at timestamptz NOT NULL,
  end_at timestamptz NOT NULL,
  agent_name text COLLATE "C" NOT NULL,     -- '': all together
  revision integer NOT NULL,
  made_at timestamptz NOT NULL DEFAULT now(),
  body bytea NOT NULL,
  PRIMARY KEY (window_name, start_at, agent_name)
) WITH (fillfactor = 50);
CREATE INDEX windows_newest ON windows (start_at DESC, agent_name, window_name);
CREATE INDEX windows_of_agent ON windows (agent_name, start_at DESC, window_name);
CREATE INDEX windows_by_end ON windows (end_at);
CREATE INDEX windows_made ON windows (made_at);

-- How far the windows have come: the number of the last outcome in them, and what cannot be told from the outcomes
-- later on. They are made of outcomes numbered above `since`, the last one before there were windows.
CREATE TABLE windows_position (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  since bigint NOT NULL,
  number bigint NOT NULL,
  watermark bigint NOT NULL,                -- Unix microseconds
  too_late bigint NOT NULL                  -- outcomes in no window because of that
);
INSERT INTO windows_position (since, number, watermark, too_late)
SELECT last, last, -(2::numeric ^ 62)::bigint, 0 FROM heads WHERE kind = 'outcome';

-- Outcomes of workflows that came too late: they count for none of the workflow's windows, ever.
CREATE TABLE outcomes_too_late (
  number bigint PRIMARY KEY
);
