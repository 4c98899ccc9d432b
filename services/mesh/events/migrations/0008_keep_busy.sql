-- As before, but a member keeps what is `busy`: partitions of which it has something under way that it cannot
-- take back. It gives them up when it looks again.
DROP FUNCTION balance(text, uuid, text[]);
CREATE FUNCTION balance(my_group text, me uuid, my_topics text[], busy integer[] DEFAULT '{}')
RETURNS TABLE (part integer, "position" bigint, missing bigint) LANGUAGE plpgsql
SET search_path = bus AS $$
#variable_conflict use_column
DECLARE
  joined boolean;
  one record;
  released bigint := 0;
  owned bigint;
  taken bigint;
  given bigint;
  lacking bigint := 0;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('bus.balance'), hashtext(my_group));
  INSERT INTO groups (name) VALUES (my_group) ON CONFLICT DO NOTHING;
  INSERT INTO members AS m (member, group_name, topics, seen, pid, backend_start)
  SELECT me, my_group, my_topics, clock_timestamp(), a.pid, a.backend_start
  FROM pg_stat_activity a WHERE a.pid = pg_backend_pid()
  ON CONFLICT (member) DO UPDATE
    SET seen = excluded.seen, pid = excluded.pid, backend_start = excluded.backend_start
  RETURNING (m.xmax = 0) INTO joined;
  INSERT INTO offsets (group_name, part)
  SELECT my_group, p.part FROM partitions p WHERE p.topic = ANY (my_topics) ON CONFLICT DO NOTHING;
  DELETE FROM members m WHERE m.group_name = my_group AND NOT EXISTS (
    SELECT FROM living l WHERE l.member = m.member);

  FOR one IN
    SELECT p.topic, p.count / l.count + (CASE WHEN l.place <= p.count % l.count THEN 1 ELSE 0 END) AS share
    FROM (SELECT topic, count(*) FROM partitions WHERE topic = ANY (my_topics) GROUP BY topic) AS p
    JOIN LATERAL (
      SELECT m.member, row_number() OVER (ORDER BY m.joined, m.member) AS place, count(*) OVER () AS count
      FROM members m WHERE m.group_name = my_group AND p.topic = ANY (m.topics)
    ) AS l ON l.member = me
    ORDER BY p.topic
  LOOP
    SELECT count(*) INTO owned FROM offsets o JOIN partitions p ON p.part = o.part
    WHERE o.group_name = my_group AND o.owner = me AND p.topic = one.topic;
    IF owned > one.share THEN
      UPDATE offsets SET owner = NULL WHERE group_name = my_group AND offsets.part IN (
        SELECT o.part FROM offsets o JOIN partitions p ON p.part = o.part
        WHERE o.group_name = my_group AND o.owner = me AND p.topic = one.topic AND o.part <> ALL (busy)
        ORDER BY o.part DESC LIMIT owned - one.share);
      GET DIAGNOSTICS given = ROW_COUNT;
      released := released + given;
    ELSIF owned < one.share THEN
      -- SKIP LOCKED: an earlier owner may be in the middle of its last commit.
      UPDATE offsets SET owner = me WHERE group_name = my_group AND offsets.part IN (
        SELECT o.part FROM offsets o JOIN partitions p ON p.part = o.part
        WHERE o.group_name = my_group AND p.topic = one.topic AND (o.owner IS NULL OR NOT EXISTS (
          SELECT FROM members m WHERE m.member = o.owner))
        ORDER BY o.part LIMIT one.share - owned FOR UPDATE OF o SKIP LOCKED);
      GET DIAGNOSTICS taken = ROW_COUNT;
      lacking := lacking + one.share - owned - taken;
    END IF;
  END LOOP;
  IF joined OR released > 0 THEN
    PERFORM pg_notify('bus_groups', my_group);
  END IF;
  RETURN QUERY SELECT o.part, o.position, lacking FROM offsets o WHERE o.group_name = my_group AND o.owner = me
    UNION ALL SELECT NULL, NULL, lacking;
END $$;
