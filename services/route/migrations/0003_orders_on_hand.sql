-- How many orders each of a tenant's couriers has is read at each allocation, their ids are not.
DROP INDEX orders_under_way;
CREATE INDEX orders_on_hand ON orders (tenant, driver_id) WHERE status IN (2, 3);
