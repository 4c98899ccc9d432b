-- What a group has handled last: whether that still lies before `next` tells a topic that was made anew.
ALTER TABLE kafka_offsets ADD COLUMN last bytea;  -- digest of the record at next - 1; null: not known
