-- name: find_rotation_policy :one
-- The tenant's policy; inside a transaction that entered the tenant.
-- $1 tenant_id uuid
SELECT p.tenant_id, p.max_age_s, p.max_records, p.max_bytes, p.jitter_percent, p.minute_ppm, p.grace_s
  FROM qflare.rotation_policy AS p
 WHERE p.tenant_id = $1;

-- name: save_rotation_policy :exec
-- What holds for the tenant from now on; inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 max_age_s bigint, $3 max_records bigint, $4 max_bytes bigint, $5 jitter_percent smallint,
-- $6 minute_ppm integer, $7 grace_s bigint
INSERT INTO qflare.rotation_policy AS p
       (tenant_id, max_age_s, max_records, max_bytes, jitter_percent, minute_ppm, grace_s)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (tenant_id) DO UPDATE
   SET max_age_s = EXCLUDED.max_age_s, max_records = EXCLUDED.max_records, max_bytes = EXCLUDED.max_bytes,
       jitter_percent = EXCLUDED.jitter_percent, minute_ppm = EXCLUDED.minute_ppm, grace_s = EXCLUDED.grace_s,
       changed_at = clock_timestamp(), counted_at = '-infinity';

-- name: drop_rotation_policy :one
-- Nothing becomes due any more; no row if there was no policy. Inside a transaction that entered the tenant.
-- $1 tenant_id uuid
DELETE FROM qflare.rotation_policy AS p
 WHERE p.tenant_id = $1
RETURNING p.tenant_id;

-- name: list_rotation_policies :many
-- Every tenant's policy, for the workers' maintenance.
SELECT p.tenant_id, p.max_age_s, p.max_records, p.max_bytes, p.jitter_percent, p.minute_ppm, p.grace_s
  FROM qflare.list_rotation_policies() AS p;

-- name: list_rotatable_keys :many
-- A page of a tenant's active devices in order of ref.
-- $1 tenant_id uuid, $2 after bytea, $3 limit bigint
SELECT k.ref, k.device_id, k.key_version, k.created_s, k.records, k.bytes, k.marked_s, k.mark_reason, k.now_s
  FROM qflare.list_rotatable_keys($1, $2, $3) AS k;

-- name: mark_rotations :one
-- Mark keys as due, within the tenant's share a minute, and write the events of those marked.
-- $1 tenant_id uuid, $2 refs bytea[], $3 key_versions bigint[], $4 reasons text[], $5 due_s bigint[], $6 to $11 events
SELECT m.marked, m.first_index, m.old_frontier
  FROM qflare.mark_rotations($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) AS m;

-- name: request_rotation :one
-- Mark an active device's keys as due because an operator asked for it; no row if that version is marked already, or is
-- not the current one of an active device. Inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 ref bytea, $3 key_version bigint
INSERT INTO qflare.rotation_mark AS m (tenant_id, ref, key_version, reason, due_at, marked_at)
SELECT d.tenant_id, d.ref, d.key_version, 'operator', clock_timestamp(), clock_timestamp()
  FROM qflare.device AS d
 WHERE d.tenant_id = $1 AND d.ref = $2 AND d.key_version = $3 AND d.state = 'active'
ON CONFLICT (ref, tenant_id) DO UPDATE
   SET key_version = EXCLUDED.key_version, reason = EXCLUDED.reason, due_at = EXCLUDED.due_at,
       marked_at = EXCLUDED.marked_at
 WHERE m.key_version < EXCLUDED.key_version
RETURNING m.key_version;

-- name: find_rotation_marks :many
-- The marks on devices' current keys.
-- $1 tenant_id uuid, $2 refs bytea[]
SELECT m.ref, m.key_version, m.reason, m.due_at, m.marked_at, m.is_overdue
  FROM qflare.find_rotation_marks($1, $2) AS m;

-- name: count_rotations :one
-- How far a tenant's rotation is; inside a transaction that entered the tenant.
-- $1 tenant_id uuid
SELECT d.devices_active, m.waiting, m.overdue, m.rotated, m.marked_last_minute,
       CASE WHEN p.minute_ppm IS NULL THEN 0 ELSE greatest(1, d.devices_active * p.minute_ppm / 1000000) END AS minute_max
  FROM (SELECT count(*) FILTER (WHERE state = 'active') AS devices_active FROM qflare.device WHERE tenant_id = $1) AS d
  LEFT JOIN (SELECT minute_ppm FROM qflare.rotation_policy WHERE tenant_id = $1) AS p ON true
 CROSS JOIN (
       SELECT count(*) FILTER (WHERE e.state = 'active' AND e.key_version = w.key_version) AS waiting,
              count(*) FILTER (WHERE e.state = 'active' AND e.key_version = w.key_version
                                 AND w.marked_at + (SELECT grace_s FROM qflare.rotation_policy WHERE tenant_id = $1)
                                     * interval '1 second' < clock_timestamp()) AS overdue,
              count(*) FILTER (WHERE e.key_version > w.key_version) AS rotated,
              count(*) FILTER (WHERE w.marked_at > clock_timestamp() - interval '1 minute') AS marked_last_minute
         FROM qflare.rotation_mark AS w
         JOIN qflare.device AS e ON e.ref = w.ref AND e.tenant_id = w.tenant_id
        WHERE w.tenant_id = $1 AND e.tenant_id = $1) AS m;

-- name: count_use :many
-- Add what sessions have carried; their sums, and whether their devices' keys are overdue.
-- $1 tenant_id uuid, $2 sids uuid[], $3 records bigint[], $4 bytes bigint[]
SELECT u.sid, u.ref, u.records, u.bytes, u.is_overdue
  FROM qflare.count_use($1, $2, $3, $4) AS u;
