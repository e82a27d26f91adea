-- Rows of the tables that version 4 brings; run by a superuser.
INSERT INTO qflare.session_page (bucket, tenant_id, first_sid, slot, last_sid, sids, epochs, sealed_chain_keys)
SELECT 1001, t.tenant_id, s.sid, 1001 % 8, s.sid, ARRAY[s.sid], '{0}', decode(repeat('0b', 93), 'hex')
  FROM qflare.tenant AS t CROSS JOIN (VALUES ('00000000-0000-0000-0000-000000000007'::uuid)) AS s (sid);
INSERT INTO qflare.bucket_turn (bucket, ranges, done, carried, ended_at) VALUES (1001, 1, 1, 2, now());
