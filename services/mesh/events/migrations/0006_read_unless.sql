-- As `read`, without the events of some kinds: they are looked at here and not sent. The newest that was looked
-- at comes even so, without its content if it is not wanted, to tell how far reading has come; `looked` says how
-- many were looked at in its partition.
CREATE FUNCTION read_unless(parts integer[], positions bigint[], most integer, unwanted smallint[])
RETURNS TABLE (
  part integer, "position" bigint, "time" timestamptz, kind smallint, key text, event_id text, value bytea,
  headers text, looked bigint
) LANGUAGE plpgsql STABLE
SET search_path = bus SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
  RETURN QUERY
  SELECT l.part, l.position, l.time, l.kind, l.key, l.event_id,
    CASE WHEN l.kind = ANY (unwanted) THEN NULL ELSE l.value END, l.headers, l.looked
  FROM unnest(parts, positions) AS p (part, seen)
  CROSS JOIN LATERAL (
    SELECT s.*, max(s.position) OVER () AS newest, count(*) OVER () AS looked FROM (
      SELECT * FROM log WHERE log.part = p.part AND log.position > p.seen ORDER BY log.position LIMIT most
    ) AS s
  ) AS l
  WHERE l.kind <> ALL (unwanted) OR l.position = l.newest
  ORDER BY l.part, l.position;
END $$;
