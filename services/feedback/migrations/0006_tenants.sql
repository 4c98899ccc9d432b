-- Whose a thing is stands in its ids: of the default tenant they are as they were, unless they have a `/`; of
-- all others, and of that, they are `tenant/id`. Bodies hold plain ids, as they always did.
-- The same in Python: services/mesh/tenancy.py.
CREATE FUNCTION tenant_of(id text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN strpos(id, '/') > 0 THEN split_part(id, '/', 1) ELSE 'default' END
$$;

-- What there is belongs to the default tenant.
UPDATE outcomes SET
  id = CASE WHEN strpos(id, '/') > 0 THEN 'default/' || id ELSE id END,
  agent_name = CASE WHEN strpos(agent_name, '/') > 0 THEN 'default/' || agent_name ELSE agent_name END,
  workflow_id = CASE WHEN strpos(workflow_id, '/') > 0 THEN 'default/' || workflow_id ELSE workflow_id END
WHERE strpos(id || agent_name || workflow_id, '/') > 0;
UPDATE outcome_ids SET id = 'default/' || id WHERE strpos(id, '/') > 0;
UPDATE deliveries SET
  id = CASE WHEN strpos(id, '/') > 0 THEN 'default/' || id ELSE id END,
  order_id = CASE WHEN strpos(order_id, '/') > 0 THEN 'default/' || order_id ELSE order_id END,
  driver_id = CASE WHEN strpos(driver_id, '/') > 0 THEN 'default/' || driver_id ELSE driver_id END
WHERE strpos(id || order_id || driver_id, '/') > 0;
UPDATE signals SET
  id = CASE WHEN strpos(id, '/') > 0 THEN 'default/' || id ELSE id END,
  subject = CASE WHEN strpos(subject, '/') > 0 THEN 'default/' || subject ELSE subject END
WHERE strpos(id || subject, '/') > 0;
UPDATE windows SET agent_name = 'default/' || agent_name WHERE strpos(agent_name, '/') > 0;

-- A key is `rule/agent`, or `rule/source/subject` for signals; what it ends with is the qualified one.
UPDATE alerts SET
  alert_key = left(alert_key, length(alert_key) - length(subject)) || 'default/' || subject,
  subject = 'default/' || subject
WHERE strpos(subject, '/') > 0;
UPDATE alert_conditions SET
  alert_key = left(alert_key, length(alert_key) - length(subject)) || 'default/' || subject,
  subject = 'default/' || subject
WHERE strpos(subject, '/') > 0;
UPDATE silences SET alert_key = regexp_replace(alert_key, '^([^/]*/[^/]*/)', '\1default/')
WHERE split_part(alert_key, '/', 1) IN
    ('breaker_open', 'health_failing', 'courier_silent', 'gps_anomaly', 'coverage_drift', 'lateness_risk')
  AND alert_key ~ '^[^/]*/[^/]*/.*/';
UPDATE silences SET alert_key = regexp_replace(alert_key, '^([^/]*/)', '\1default/')
WHERE split_part(alert_key, '/', 1) NOT IN
    ('breaker_open', 'health_failing', 'courier_silent', 'gps_anomaly', 'coverage_drift', 'lateness_risk')
  AND alert_key ~ '^[^/]*/.*/';

-- Lists are of one tenant. Indexes of the expression, and no columns: these would have each table of outcomes
-- written anew. Those without the tenant stay, for lists of the mesh.
CREATE INDEX outcomes_of_tenant ON outcomes (tenant_of(id), at DESC, number DESC);
CREATE INDEX deliveries_of_tenant ON deliveries (tenant_of(id), number);
CREATE INDEX windows_of_tenant ON windows (tenant_of(agent_name), start_at DESC, agent_name, window_name);
CREATE INDEX alerts_of_tenant ON alerts (tenant_of(subject), raised_at DESC, number DESC);
CREATE INDEX alerts_of_tenant_by_rule ON alerts (tenant_of(subject), rule, raised_at DESC, number DESC);
