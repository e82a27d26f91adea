-- Rows of the tables that version 16 brings; run by a superuser.
INSERT INTO qflare.incident (tenant_id, incident_id, signal, severity, subject, first_seen_at, last_seen_at, seen, evidence)
SELECT t.tenant_id, gen_random_uuid(), 'replays', 'warning', s.subject, now(), now(), 3, '{}'
  FROM qflare.tenant AS t CROSS JOIN (VALUES (''::bytea), (decode(repeat('0c', 32), 'hex'))) AS s (subject);
INSERT INTO qflare.detector_state (tenant_id, state_version, state)
SELECT t.tenant_id, 1, decode('00', 'hex') FROM qflare.tenant AS t;
