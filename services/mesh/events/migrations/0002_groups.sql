-- Groups of readers. The members of a group share the partitions of its topics; a partition's owner stands
-- beside its position, and both fence what an earlier owner may still try to commit.

CREATE TABLE groups (
  name text PRIMARY KEY,
  seen timestamptz NOT NULL DEFAULT now()   -- when it last had a member
);

CREATE TABLE offsets (
  group_name text NOT NULL REFERENCES groups (name) ON DELETE CASCADE,
  part integer NOT NULL REFERENCES partitions (part),
  position bigint NOT NULL DEFAULT 0,       -- of the newest event the group has handled
  owner uuid,
  PRIMARY KEY (group_name, part)
) WITH (fillfactor = 25);

-- A member lives while the server process of its connection does: after a kill -9 the server notices at
-- once that the connection is gone. `seen` tells of one that hangs.
CREATE TABLE members (
  member uuid PRIMARY KEY,
  group_name text NOT NULL REFERENCES groups (name) ON DELETE CASCADE,
  topics text[] NOT NULL,
  joined timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen timestamptz NOT NULL,
  pid integer NOT NULL,
  backend_start timestamptz NOT NULL
) WITH (fillfactor = 25);

CREATE VIEW living AS
SELECT m.* FROM members m
JOIN pg_stat_activity a ON a.pid = m.pid AND a.backend_start = m.backend_start
WHERE m.seen > clock_timestamp() - interval '15 seconds';

-- Joins, or stays in, a group; gives up what is more than a fair share of each topic, takes what is free.
-- Returns what the member owns, and in a row without part how many partitions are missing to its share.
CREATE FUNCTION balance(my_group text, me uuid, my_topics text[])
RETURNS TABLE (part integer, "position" bigint, missing bigint) LANGUAGE plpgsql
SET search_path = bus AS $$
#variable_conflict use_column
DECLARE
  joined boolean;
  one record;
  released bigint := 0;
  owned bigint;
  taken bigint;
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
        WHERE o.group_name = my_group AND o.owner = me AND p.topic = one.topic
        ORDER BY o.part DESC LIMIT owned - one.share);
      released := released + owned - one.share;
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

CREATE FUNCTION leave(my_group text, me uuid) RETURNS void LANGUAGE plpgsql SET search_path = bus AS $$
BEGIN
  DELETE FROM members WHERE member = me;
  UPDATE offsets SET owner = NULL WHERE group_name = my_group AND owner = me;
  PERFORM pg_notify('bus_groups', my_group);
END $$;
