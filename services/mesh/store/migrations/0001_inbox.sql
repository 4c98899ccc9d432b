-- Ids of what this service has taken in, so that the same again changes nothing.
CREATE TABLE inbox (
  scope text NOT NULL,          -- kind of event; the same id may come in several
  event_id text NOT NULL,
  digest bytea,                 -- of the content, where "same id, other content" must be told
  seen_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (scope, event_id)
);
CREATE INDEX inbox_by_time ON inbox USING brin (seen_at);
