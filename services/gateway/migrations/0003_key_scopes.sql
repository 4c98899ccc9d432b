-- What a key may be used for, until when, and how many requests it may have under way.
ALTER TABLE api_keys
  -- Patterns of tasks, and `admin`; `*` does not include it.
  ADD COLUMN scopes text[] NOT NULL DEFAULT '{*}' CHECK (
    cardinality(scopes) BETWEEN 1 AND 64
    AND array_to_string(scopes, ',', '-') ~ '^[a-z0-9_*]{1,64}(,[a-z0-9_*]{1,64})*$'
  ),
  ADD COLUMN expires_at timestamptz,
  ADD COLUMN under_way integer CHECK (under_way >= 1);

-- The key that an operator begins with could do everything so far.
UPDATE api_keys SET scopes = '{*,admin}' WHERE name = 'FASTAPI_API_KEY';

-- A key stays whose it is: what was done with it must not become another tenant's. Only its end, its scopes and its
-- limits change.
CREATE FUNCTION refuse_other_owner() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (OLD.key_id, OLD.digest, OLD.tenant, OLD.name, OLD.created_at)
      IS DISTINCT FROM (NEW.key_id, NEW.digest, NEW.tenant, NEW.name, NEW.created_at) THEN
    RAISE EXCEPTION 'an API key keeps its id, name and tenant';
  END IF;
  RETURN NEW;
END $$;

CREATE TRIGGER api_keys_stay BEFORE UPDATE ON api_keys FOR EACH ROW EXECUTE FUNCTION refuse_other_owner();
