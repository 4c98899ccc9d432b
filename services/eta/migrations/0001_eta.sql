-- What eta owns. Times named *_us are µs since 1970 by the clock of whoever reported; the smallest bigint is "not known".

-- One row per partition of gps-events, and partition -1 for what the intake found. The row is locked while a batch of
-- the partition is processed; `token` names the state that the counters and tables are in, so that a process knows
-- whether what it remembers still holds.
CREATE TABLE gps_partitions (
    partition integer PRIMARY KEY,
    token uuid NOT NULL,
    fixes bigint NOT NULL DEFAULT 0,
    duplicates bigint NOT NULL DEFAULT 0,
    conflicts bigint NOT NULL DEFAULT 0,
    predictions bigint NOT NULL DEFAULT 0,
    -- Fixes that carry each AnomalyFlag, flag n at place n.
    flags bigint[] NOT NULL
);

-- Which fixes were processed: 64-bit hashes of ids and contents, 8 bytes each, a row per batch.
CREATE TABLE gps_seen (
    seen_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    partition integer NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    ids bytea STORAGE EXTERNAL NOT NULL,
    contents bytea STORAGE EXTERNAL NOT NULL,
    CHECK (octet_length(ids) = octet_length(contents) AND octet_length(ids) % 8 = 0)
);
CREATE INDEX gps_seen_by_partition ON gps_seen (partition, seen_at);

-- Fixes that came by ReportGps: their answer says at once whether they came before.
CREATE TABLE gps_reports (
    event_id text PRIMARY KEY,
    content bytea NOT NULL,
    reported_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX gps_reports_by_time ON gps_reports (reported_at);

CREATE TABLE couriers (
    driver_id text PRIMARY KEY,
    last_us bigint NOT NULL,
    last_lat double precision NOT NULL,
    last_lon double precision NOT NULL,
    last_odd bigint NOT NULL,
    prev_us bigint NOT NULL,
    prev_lat double precision NOT NULL,
    prev_lon double precision NOT NULL,
    usable_us bigint NOT NULL,
    usable_lat double precision NOT NULL,
    usable_lon double precision NOT NULL,
    run_m double precision NOT NULL,
    run_s double precision NOT NULL,
    vehicle bigint NOT NULL,
    traffic bigint NOT NULL,
    stage bigint NOT NULL,
    -- Rewritten with every batch: room in the page keeps the index out of it.
    heard_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 60);

CREATE TABLE tracks (
    order_id text PRIMARY KEY,
    driver_id text NOT NULL,
    stage bigint NOT NULL,
    stage_us bigint NOT NULL,
    to_pickup_us bigint NOT NULL,
    at_pickup_us bigint NOT NULL,
    picked_up_us bigint NOT NULL,
    at_destination_us bigint NOT NULL,
    delivered_us bigint NOT NULL,
    start_lat double precision NOT NULL,
    start_lon double precision NOT NULL,
    approach_m double precision NOT NULL,
    carry_m double precision NOT NULL,
    last_us bigint NOT NULL,
    shown_pickup_us bigint NOT NULL,
    shown_delivery_us bigint NOT NULL,
    awaiting boolean NOT NULL,
    scored boolean NOT NULL,
    partition integer NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 60);

-- Predictions in the order of `seq`, without gaps: the head is locked from the taking of numbers to the commit.
CREATE TABLE prediction_head (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    seq bigint NOT NULL
);
INSERT INTO prediction_head (seq) VALUES (0);

CREATE TABLE predictions (
    seq bigint PRIMARY KEY,
    order_id text NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    -- waymesh.eta.v1.EtaPrediction
    prediction bytea NOT NULL
);
CREATE INDEX predictions_by_order ON predictions (order_id, seq);

-- Outcomes that feedback has not acknowledged yet.
CREATE TABLE outcome_outbox (
    outcome_id text PRIMARY KEY,
    queued_at timestamptz NOT NULL DEFAULT now(),
    -- waymesh.feedback.v1.DeliveryOutcome
    outcome bytea NOT NULL
);
CREATE INDEX outcome_outbox_by_time ON outcome_outbox (queued_at, outcome_id);

-- What was learned, and up to where feedback's record has been read.
CREATE TABLE learned (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    page_token text NOT NULL,
    state jsonb NOT NULL,
    learned_at timestamptz NOT NULL DEFAULT now()
);
