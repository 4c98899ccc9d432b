-- What route owns: orders, couriers, where couriers are, who carries what and in which order of stops.
-- `body` columns hold the protobuf bytes of the contract's message; the other columns are what statements search by.

CREATE TABLE orders (
    order_id      text PRIMARY KEY,
    -- 0: the row is being made by an open transaction.
    revision      integer NOT NULL,
    -- waymesh.order.v1.OrderStatus
    status        smallint NOT NULL,
    driver_id     text NOT NULL,
    priority      integer NOT NULL,
    placed_at     timestamptz NOT NULL,
    -- waymesh.order.v1.Order
    body          bytea NOT NULL,
    changed_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX orders_waiting ON orders (priority DESC, placed_at) WHERE status = 1;
CREATE INDEX orders_carried ON orders (driver_id) WHERE status IN (2, 3);
CREATE INDEX orders_over ON orders (changed_at) WHERE status IN (4, 5);

CREATE TABLE couriers (
    driver_id  text PRIMARY KEY,
    -- 0: the row is being made by an open transaction.
    revision   integer NOT NULL,
    -- waymesh.order.v1.CourierStatus
    status     smallint NOT NULL,
    -- waymesh.order.v1.Courier
    body       bytea NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX couriers_at_work ON couriers (driver_id) WHERE status IN (2, 3);

-- SHA-256 of each accepted revision, so that a repeated write is told from a conflicting one.
CREATE TABLE revisions (
    -- 'o' order, 'c' courier
    kind     "char" NOT NULL,
    id       text NOT NULL,
    revision integer NOT NULL,
    digest   bytea NOT NULL,
    PRIMARY KEY (kind, id, revision)
);

-- The newest fix of every device that reports, known as a courier or not.
CREATE TABLE positions (
    driver_id text PRIMARY KEY,
    lat       double precision NOT NULL,
    lon       double precision NOT NULL,
    -- by the source's clock
    fixed_at  timestamptz NOT NULL,
    speed_kph double precision NOT NULL,
    -- waymesh.gps.v1.TripStage
    stage     smallint NOT NULL,
    order_id  text NOT NULL,
    -- by our clock
    heard_at  timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 60);
-- An order may come after the fixes of the courier who has it.
CREATE INDEX positions_of_order ON positions (order_id) WHERE order_id <> '';

CREATE TABLE allocations (
    order_id  text PRIMARY KEY,
    driver_id text NOT NULL,
    -- waymesh.route.v1.Allocation
    body      bytea NOT NULL,
    made_at   timestamptz NOT NULL DEFAULT now()
);

-- The planned stops of couriers with orders.
CREATE TABLE plans (
    driver_id text PRIMARY KEY,
    version   integer NOT NULL,
    orders    integer NOT NULL,
    -- ends of the leg under way
    from_lat  double precision NOT NULL,
    from_lon  double precision NOT NULL,
    next_lat  double precision NOT NULL,
    next_lon  double precision NOT NULL,
    -- waymesh.route.v1.RoutePlan
    body      bytea NOT NULL,
    made_at   timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 80);
