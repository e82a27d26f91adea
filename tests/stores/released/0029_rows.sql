-- Rows of the table that version 29 brings; run by a superuser.
INSERT INTO qflare.operator (tenant_id, name, salt, log2_n, r, p, secret_hash)
SELECT t.tenant_id, 'control', decode(repeat('00', 16), 'hex'), 15, 8, 1, decode(repeat('00', 32), 'hex')
  FROM qflare.tenant AS t ON CONFLICT DO NOTHING;
INSERT INTO qflare.two_person_control (tenant_id, is_on, changed_by)
SELECT t.tenant_id, true, 'control' FROM qflare.tenant AS t;
