-- What it is called everywhere else: with the log as the outbox, this is the inbox.
ALTER TABLE kafka_seen RENAME TO inbox;
ALTER INDEX kafka_seen_pkey RENAME TO inbox_pkey;
ALTER INDEX kafka_seen_by_time RENAME TO inbox_by_time;
