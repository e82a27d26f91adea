-- name: list_device_psks :many
-- A device's psks with their moves, newest first; inside a tenant's transaction.
-- $1 tenant_id uuid, $2 ref bytea, $3 below this psk version bigint, $4 limit bigint
SELECT 'psk' AS kind, k.psk_version AS number, 'KMAC256' AS algorithm, k.state, k.created_at, m.from_states,
       m.to_states, m.reasons, m.moved_at
  FROM qflare.device_psk AS k
 CROSS JOIN LATERAL (
       SELECT array_agg(e.from_state ORDER BY e.move_index) AS from_states,
              array_agg(e.to_state ORDER BY e.move_index) AS to_states,
              array_agg(e.reason ORDER BY e.move_index) AS reasons,
              array_agg(e.moved_at ORDER BY e.move_index) AS moved_at
         FROM (SELECT d.move_index, d.from_state, d.to_state, d.reason, d.moved_at FROM qflare.device_psk_move AS d
                WHERE d.ref = k.ref AND d.psk_version = k.psk_version AND d.tenant_id = k.tenant_id
                ORDER BY d.move_index DESC LIMIT 100) AS e) AS m
 WHERE k.tenant_id = $1 AND k.ref = $2 AND k.psk_version < $3
 ORDER BY k.psk_version DESC
 LIMIT $4;

-- name: list_device_records :many
-- A device's keys with their moves, newest first; inside a tenant's transaction.
-- $1 tenant_id uuid, $2 ref bytea, $3 below this key version bigint, $4 limit bigint
SELECT k.kind, k.key_version AS number, k.algorithm, k.state, k.created_at, m.from_states, m.to_states, m.reasons,
       m.moved_at
  FROM qflare.device_key AS k
 CROSS JOIN LATERAL (
       SELECT array_agg(e.from_state ORDER BY e.move_index) AS from_states,
              array_agg(e.to_state ORDER BY e.move_index) AS to_states,
              array_agg(e.reason ORDER BY e.move_index) AS reasons,
              array_agg(e.moved_at ORDER BY e.move_index) AS moved_at
         FROM (SELECT d.move_index, d.from_state, d.to_state, d.reason, d.moved_at FROM qflare.device_key_move AS d
                WHERE d.ref = k.ref AND d.key_version = k.key_version AND d.kind = k.kind AND d.tenant_id = k.tenant_id
                ORDER BY d.move_index DESC LIMIT 100) AS e) AS m
 WHERE k.tenant_id = $1 AND k.ref = $2 AND k.key_version < $3
 ORDER BY k.key_version DESC, k.kind DESC
 LIMIT $4;

-- name: list_bucket_records :many
-- Buckets' keys with their moves, newest first.
-- $1 below this bucket bigint, $2 limit bigint
SELECT 'bucket' AS kind, k.bucket AS number, 'ML-KEM-1024' AS algorithm, k.state, k.created_at, m.from_states,
       m.to_states, m.reasons, m.moved_at
  FROM qflare.bucket_record AS k
 CROSS JOIN LATERAL (
       SELECT array_agg(e.from_state ORDER BY e.move_index) AS from_states,
              array_agg(e.to_state ORDER BY e.move_index) AS to_states,
              array_agg(e.reason ORDER BY e.move_index) AS reasons,
              array_agg(e.moved_at ORDER BY e.move_index) AS moved_at
         FROM (SELECT d.move_index, d.from_state, d.to_state, d.reason, d.moved_at FROM qflare.bucket_record_move AS d
                WHERE d.fingerprint = k.fingerprint AND d.bucket = k.bucket
                ORDER BY d.move_index DESC LIMIT 100) AS e) AS m
 WHERE k.bucket < $1
 ORDER BY k.bucket DESC, k.created_at DESC
 LIMIT $2;

-- name: list_server_records :many
-- The keys of the server's identity with their moves, newest first.
-- $1 limit bigint
SELECT k.kind, k.serial AS number, CASE k.kind WHEN 'root' THEN 'ML-DSA-87' ELSE 'ML-DSA-44' END AS algorithm, k.state,
       k.created_at, m.from_states, m.to_states, m.reasons, m.moved_at
  FROM qflare.server_key AS k
 CROSS JOIN LATERAL (
       SELECT array_agg(e.from_state ORDER BY e.move_index) AS from_states,
              array_agg(e.to_state ORDER BY e.move_index) AS to_states,
              array_agg(e.reason ORDER BY e.move_index) AS reasons,
              array_agg(e.moved_at ORDER BY e.move_index) AS moved_at
         FROM (SELECT d.move_index, d.from_state, d.to_state, d.reason, d.moved_at FROM qflare.server_key_move AS d
                WHERE d.key_id = k.key_id
                ORDER BY d.move_index DESC LIMIT 100) AS e) AS m
 ORDER BY k.serial DESC, k.kind
 LIMIT $1;
