-- Ids are qualified (services/mesh/tenancy.py): those of the default tenant as they stand, unless they have a slash,
-- all others with their tenant before the first one. Bodies hold plain ids, as callers know them.
UPDATE orders SET order_id = 'default/' || order_id WHERE strpos(order_id, '/') > 0;
UPDATE orders SET driver_id = 'default/' || driver_id WHERE strpos(driver_id, '/') > 0;
UPDATE couriers SET driver_id = 'default/' || driver_id WHERE strpos(driver_id, '/') > 0;
UPDATE revisions SET id = 'default/' || id WHERE strpos(id, '/') > 0;
UPDATE positions SET driver_id = 'default/' || driver_id WHERE strpos(driver_id, '/') > 0;
UPDATE positions SET order_id = 'default/' || order_id WHERE strpos(order_id, '/') > 0;
UPDATE allocations SET order_id = 'default/' || order_id WHERE strpos(order_id, '/') > 0;
UPDATE allocations SET driver_id = 'default/' || driver_id WHERE strpos(driver_id, '/') > 0;
UPDATE plans SET driver_id = 'default/' || driver_id WHERE strpos(driver_id, '/') > 0;

ALTER TABLE orders ADD COLUMN tenant text NOT NULL GENERATED ALWAYS AS
    (CASE WHEN strpos(order_id, '/') > 0 THEN split_part(order_id, '/', 1) ELSE 'default' END) STORED;
ALTER TABLE couriers ADD COLUMN tenant text NOT NULL GENERATED ALWAYS AS
    (CASE WHEN strpos(driver_id, '/') > 0 THEN split_part(driver_id, '/', 1) ELSE 'default' END) STORED;

DROP INDEX orders_waiting;
CREATE INDEX orders_waiting ON orders (tenant, priority DESC, placed_at) WHERE status = 1;
CREATE INDEX orders_under_way ON orders (tenant, order_id) WHERE status IN (2, 3);
DROP INDEX couriers_at_work;
CREATE INDEX couriers_at_work ON couriers (tenant, driver_id) WHERE status IN (2, 3);
