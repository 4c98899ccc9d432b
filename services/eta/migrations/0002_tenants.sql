-- Ids are qualified (services/mesh/tenancy.py): those of the default tenant as they stand, unless they have a slash,
-- all others with their tenant before the first one. Predictions and outcomes hold plain ids, as callers know them.
UPDATE gps_reports SET event_id = 'default/' || event_id WHERE strpos(event_id, '/') > 0;
UPDATE couriers SET driver_id = 'default/' || driver_id WHERE strpos(driver_id, '/') > 0;
UPDATE tracks SET order_id = 'default/' || order_id WHERE strpos(order_id, '/') > 0;
UPDATE tracks SET driver_id = 'default/' || driver_id WHERE strpos(driver_id, '/') > 0;
UPDATE predictions SET order_id = 'default/' || order_id WHERE strpos(order_id, '/') > 0;
UPDATE learned SET state = state || jsonb_build_object(
    'means', (
        SELECT coalesce(jsonb_agg(
            CASE WHEN strpos(mean ->> 2, '/') > 0
            THEN jsonb_set(mean, '{2}', to_jsonb('default/' || (mean ->> 2))) ELSE mean END
            ORDER BY place), '[]')
        FROM jsonb_array_elements(state -> 'means') WITH ORDINALITY AS one (mean, place)),
    'recent', (
        SELECT coalesce(jsonb_agg(
            CASE WHEN strpos(order_id, '/') > 0 THEN 'default/' || order_id ELSE order_id END ORDER BY place), '[]')
        FROM jsonb_array_elements_text(state -> 'recent') WITH ORDINALITY AS one (order_id, place)));

-- Who watches all predictions sees those of his own orders.
ALTER TABLE predictions ADD COLUMN tenant text NOT NULL GENERATED ALWAYS AS
    (CASE WHEN strpos(order_id, '/') > 0 THEN split_part(order_id, '/', 1) ELSE 'default' END) STORED;
CREATE INDEX predictions_by_tenant ON predictions (tenant, seq);

-- What of the counters in gps_partitions is of other tenants than the default one, whose the rest is. They are changed
-- together, while the row there is locked.
CREATE TABLE gps_counts (
    partition integer NOT NULL,
    tenant text NOT NULL,
    fixes bigint NOT NULL,
    duplicates bigint NOT NULL,
    conflicts bigint NOT NULL,
    predictions bigint NOT NULL,
    flags bigint[] NOT NULL,
    PRIMARY KEY (tenant, partition)
);
