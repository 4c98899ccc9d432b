-- API keys. A key itself is never stored: it is 24 random bytes or what FASTAPI_API_KEY holds, and its SHA-256
-- finds the row.
CREATE TABLE api_keys (
  key_id text PRIMARY KEY CHECK (key_id ~ '^[0-9a-f]{12}$'),
  name text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 128),
  digest bytea NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
  -- Requests a second and at once; NULL: the gateway's defaults.
  rate_per_s double precision CHECK (rate_per_s > 0),
  burst integer CHECK (burst >= 1),
  created_at timestamptz NOT NULL DEFAULT now(),
  revoked_at timestamptz
);

-- One row that counts changes, so that gateways see with one look whether anything is new.
CREATE TABLE api_key_version (
  single boolean PRIMARY KEY DEFAULT true CHECK (single),
  version bigint NOT NULL
);
INSERT INTO api_key_version (version) VALUES (0);

CREATE FUNCTION count_api_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  UPDATE api_key_version SET version = version + 1;
  RETURN NULL;
END $$;

CREATE TRIGGER api_keys_changed AFTER INSERT OR UPDATE OR DELETE ON api_keys
  FOR EACH STATEMENT EXECUTE FUNCTION count_api_key_change();
