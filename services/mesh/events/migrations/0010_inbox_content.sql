-- What an event said: the same id with other content is no repetition of it.
ALTER TABLE inbox ADD COLUMN content bytea;  -- digest; null: let in before this was kept, taken for the same
