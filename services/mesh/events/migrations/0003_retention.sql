-- Position up to which every group has read a partition. A group without a member for 30 days is forgotten:
-- it must not keep the log growing for ever.
CREATE FUNCTION read_by_all(one integer) RETURNS bigint LANGUAGE sql STABLE SET search_path = bus AS $$
  SELECT coalesce(
    (SELECT min(o.position) FROM offsets o JOIN groups g ON g.name = o.group_name
     WHERE o.part = one AND g.seen > now() - interval '30 days'),
    (SELECT last FROM heads WHERE part = one))
$$;

-- Deletes up to `most` of the oldest events that came before a time and that every group has read.
CREATE FUNCTION discard(one integer, before timestamptz, most integer) RETURNS bigint LANGUAGE plpgsql
SET search_path = bus SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
  bound bigint;
  gone bigint;
BEGIN
  SELECT max(o.position) INTO bound FROM (
    SELECT position, time FROM log WHERE part = one ORDER BY position LIMIT most) AS o
  WHERE o.time < before AND o.position <= read_by_all(one);
  DELETE FROM log WHERE part = one AND position <= bound;
  GET DIAGNOSTICS gone = ROW_COUNT;
  RETURN gone;
END $$;

-- Leaves the newest event of each key, and whatever a group has still to read. Reads the whole partition,
-- so it waits until about as much came in as the last time was left.
CREATE FUNCTION compact(one integer, fewest bigint) RETURNS bigint LANGUAGE plpgsql SET search_path = bus AS $$
DECLARE
  bound bigint := read_by_all(one);
  gone bigint;
BEGIN
  PERFORM FROM partitions WHERE part = one AND bound - compacted_to >= greatest(fewest, kept);
  IF NOT FOUND THEN
    RETURN 0;
  END IF;
  DELETE FROM log USING (SELECT key, max(position) AS newest FROM log WHERE part = one GROUP BY key) AS n
  WHERE log.part = one AND log.key = n.key AND log.position < n.newest AND log.position <= bound;
  GET DIAGNOSTICS gone = ROW_COUNT;
  UPDATE partitions SET compacted_to = bound, kept = (SELECT count(*) FROM log WHERE part = one AND position <= bound)
  WHERE part = one;
  RETURN gone;
END $$;
