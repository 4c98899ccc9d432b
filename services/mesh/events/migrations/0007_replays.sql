-- Dead letters that somebody has sent back to where they came from, by their id: for both adapters, since a
-- topic of Kafka cannot be written on.

CREATE TABLE replays (
  letter_id text NOT NULL,
  replayed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (letter_id, replayed_at)
);
