-- Rows as version 1 writes them, of two tenants and in every table; run by a superuser.
INSERT INTO qflare.tenant (tenant_id, name) VALUES ('00010203-0405-0607-0809-0a0b0c0d0e0f', 'other');

INSERT INTO qflare.device (tenant_id, ref, device_id, state, state_reason, key_version, sealed_psk)
SELECT t.tenant_id, sha256(convert_to(d.name || t.name, 'UTF8')), d.name, d.state, 'a reason', 1,
       CASE d.state WHEN 'active' THEN decode(repeat('5a', 100), 'hex') END
  FROM qflare.tenant AS t
 CROSS JOIN (VALUES ('pump-1', 'pre-active'), ('pump-2', 'active'), ('pump-3', 'suspended'), ('pump-4', 'deactivated'),
                    ('pump-5', 'compromised'), ('pump-6', 'destroyed')) AS d (name, state);

INSERT INTO qflare.device_key (tenant_id, ref, key_version, kind, algorithm, public_key, state, ended_at)
SELECT d.tenant_id, d.ref, 1, k.kind, k.algorithm, decode(repeat('ab', k.size), 'hex'), d.state,
       CASE WHEN d.state IN ('deactivated', 'compromised', 'destroyed') THEN now() END
  FROM qflare.device AS d
 CROSS JOIN (VALUES ('kem', 'ML-KEM-1024', 1568), ('signature', 'ML-DSA-44', 1312)) AS k (kind, algorithm, size);

INSERT INTO qflare.server_identity (serial, server_id, root_key, certificate, sealed_root, sealed_announce, sealed_log)
VALUES (0, sha256('id'), decode(repeat('01', 2592), 'hex'), decode(repeat('02', 7400), 'hex'),
        decode(repeat('03', 100), 'hex'), decode(repeat('04', 100), 'hex'), decode(repeat('05', 100), 'hex'));

INSERT INTO qflare.bucket_key (bucket, width_s, announcement, sealed_dk, sealed_ticket_key)
SELECT b, 300, decode(repeat('06', 4042), 'hex'), decode(repeat('07', 100), 'hex'), decode(repeat('08', 60), 'hex')
  FROM generate_series(1000, 1002) AS b;
UPDATE qflare.bucket_mark SET bucket = 1001, expired_before = 900;

INSERT INTO qflare.session (tenant_id, sid, slot, ref, key_version, form, start_bucket, last_bucket, policy, state,
                            log_index, created_at, carried_at, ended_at)
SELECT d.tenant_id, md5(d.ref::text || s.state)::uuid, 1100 / 192 % 4, d.ref, 1, 1, 1000, 1100, 0, s.state, 0, now(),
       CASE WHEN s.state = 'live' THEN now() END, CASE WHEN s.state <> 'live' THEN now() END
  FROM qflare.device AS d
 CROSS JOIN (VALUES ('live'), ('ended'), ('revoked'), ('superseded')) AS s (state)
 WHERE d.state = 'active';
INSERT INTO qflare.session_route (sid, slot, tenant_id) SELECT sid, slot, tenant_id FROM qflare.session;
INSERT INTO qflare.session_state (bucket, sid, tenant_id, slot, epoch, sealed_chain_key)
SELECT 1000, sid, tenant_id, 1000 % 8, 0, decode(repeat('09', 100), 'hex') FROM qflare.session WHERE state = 'live';
INSERT INTO qflare.session_count (tenant_id, last_bucket, live, total)
SELECT tenant_id, last_bucket, count(*) FILTER (WHERE state = 'live'), count(*) FROM qflare.session GROUP BY 1, 2;
INSERT INTO qflare.handshake (tenant_id, ticket_bucket, sid, slot, th3_hash)
SELECT tenant_id, 1000, sid, 1000 % 8, sha512(convert_to(sid::text, 'UTF8')) FROM qflare.session;
INSERT INTO qflare.stream (tenant_id, sid, stream_id, bucket, direction, slot)
SELECT tenant_id, sid, gen_random_uuid(), 1000, 1, 1000 % 8 FROM qflare.session;

INSERT INTO qflare.enrolment_token (tenant_id, token_id, device_id, secret_hash, expires_at, used_at, used_key_hash)
SELECT t.tenant_id, gen_random_uuid(), 'pump-7', sha512('secret'), now() + interval '1 day', u.used_at,
       CASE WHEN u.used_at IS NOT NULL THEN sha512('key') END
  FROM qflare.tenant AS t CROSS JOIN (VALUES (NULL), (now())) AS u (used_at);

INSERT INTO qflare.audit_entry (log_index, tenant_id, entry_type, event_type, severity, device_id, leaf_hash, leaf_data,
                                data, recorded_at)
SELECT row_number() OVER (ORDER BY t.tenant_id, e.entry_type) - 1, t.tenant_id, e.entry_type, e.event_type, 'info',
       e.device_id, sha256('\x00'::bytea || '\x0102'), '\x0102', '{}', now()
  FROM qflare.tenant AS t
 CROSS JOIN (VALUES (1, 'key_exchange', NULL), (2, 'system', 'pump-1')) AS e (entry_type, event_type, device_id);
INSERT INTO qflare.log_node (level, node_index, hash)
VALUES (1, 0, sha256('a')), (1, 1, sha256('b')), (2, 0, sha256('c'));
UPDATE qflare.log_head SET size = 4, frontier = sha256('c');
INSERT INTO qflare.checkpoint (size, root, time_s, signature)
VALUES (4, sha256('c'), 1700000000, decode(repeat('0a', 2420), 'hex'));
