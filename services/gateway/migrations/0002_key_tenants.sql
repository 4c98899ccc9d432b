-- Whose requests a key makes: what agents, runs and budgets belong to. Keys of before are the default tenant's.
ALTER TABLE api_keys
  ADD COLUMN tenant text NOT NULL DEFAULT 'default' CHECK (tenant ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$');
