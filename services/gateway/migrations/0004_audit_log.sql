-- Who changed what: every change of keys, and every call of a task that is for operators, refused ones too.
CREATE TABLE audit_log (
  audit_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT now(),
  tenant text NOT NULL,
  -- Of the API key that a call came with; empty for commands.
  key_id text NOT NULL DEFAULT '',
  caller text NOT NULL CHECK (char_length(caller) <= 256),
  -- A command such as `keys add`, or a task.
  action text NOT NULL CHECK (char_length(action) BETWEEN 1 AND 128),
  subject text NOT NULL DEFAULT '' CHECK (char_length(subject) <= 1024),
  outcome text NOT NULL CHECK (outcome IN ('done', 'allowed', 'refused')),
  detail text NOT NULL DEFAULT '' CHECK (char_length(detail) <= 4096),
  request_id text NOT NULL DEFAULT '' CHECK (char_length(request_id) <= 128),
  -- How often, where the same was refused again and again.
  times bigint NOT NULL DEFAULT 1 CHECK (times >= 1)
);
CREATE INDEX audit_log_at ON audit_log (at DESC, audit_id DESC);

CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the audit log is only added to';
END $$;

CREATE TRIGGER audit_log_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();
