-- name: ask_response :one
-- Keep a response as proposed; no row if its id stands already.  Inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 response_id uuid, $3 incident_id uuid or null, $4 action text, $5 ref bytea or null,
-- $6 device_id text or null, $7 source text or null, $8 rule text or null, $9 is_automatic boolean, $10 proven bigint,
-- $11 needs_two boolean, $12 first_by text or null, $13 reason text, $14 per_minute bigint or null, $15 lasts_s bigint or null
INSERT INTO qflare.response AS r
       (tenant_id, response_id, incident_id, action, ref, device_id, source, rule, is_automatic, proven, needs_two,
        first_by, reason, per_minute, lasts_s)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (response_id, tenant_id) DO NOTHING
RETURNING r.response_id, r.tenant_id, r.incident_id, r.action, r.ref, r.device_id, r.source, r.rule, r.is_automatic,
       r.proven, r.needs_two, r.first_by, r.second_by, r.reason, r.state, r.before, r.changed, r.per_minute, r.lasts_s,
       r.until_at, r.asked_at, r.changed_at, r.expires_at, r.ended_by, r.ended_because,
       r.expires_at <= clock_timestamp() AS is_expired;

-- name: hold_responses :exec
-- One response of a tenant at a time is carried out, so that what is counted stays true until it is committed.
-- $1 tenant_id uuid
SELECT pg_advisory_xact_lock(hashtextextended('qflare.responses/' || $1::uuid::text, 0));

-- name: find_response :one
-- One response; inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 response_id uuid
SELECT r.response_id, r.tenant_id, r.incident_id, r.action, r.ref, r.device_id, r.source, r.rule, r.is_automatic,
       r.proven, r.needs_two, r.first_by, r.second_by, r.reason, r.state, r.before, r.changed, r.per_minute, r.lasts_s,
       r.until_at, r.asked_at, r.changed_at, r.expires_at, r.ended_by, r.ended_because,
       r.expires_at <= clock_timestamp() AS is_expired
  FROM qflare.response AS r
 WHERE r.tenant_id = $1
   AND r.response_id = $2;

-- name: lock_response :one
-- One response that is to be moved, locked; inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 response_id uuid
SELECT r.response_id, r.tenant_id, r.incident_id, r.action, r.ref, r.device_id, r.source, r.rule, r.is_automatic,
       r.proven, r.needs_two, r.first_by, r.second_by, r.reason, r.state, r.before, r.changed, r.per_minute, r.lasts_s,
       r.until_at, r.asked_at, r.changed_at, r.expires_at, r.ended_by, r.ended_because,
       r.expires_at <= clock_timestamp() AS is_expired
  FROM qflare.response AS r
 WHERE r.tenant_id = $1
   AND r.response_id = $2
   FOR UPDATE;

-- name: confirm_response :one
-- Note who wants it, the first or the second; inside a transaction that holds its row.
-- $1 tenant_id uuid, $2 response_id uuid, $3 name text
UPDATE qflare.response AS r
   SET first_by  = coalesce(r.first_by, $3),
       second_by = CASE WHEN r.first_by IS NULL THEN NULL ELSE $3 END
 WHERE r.tenant_id = $1
   AND r.response_id = $2
RETURNING r.response_id, r.tenant_id, r.incident_id, r.action, r.ref, r.device_id, r.source, r.rule, r.is_automatic,
       r.proven, r.needs_two, r.first_by, r.second_by, r.reason, r.state, r.before, r.changed, r.per_minute, r.lasts_s,
       r.until_at, r.asked_at, r.changed_at, r.expires_at, r.ended_by, r.ended_because,
       r.expires_at <= clock_timestamp() AS is_expired;

-- name: require_second :one
-- Have a response need another operator; inside a transaction that holds its row.
-- $1 tenant_id uuid, $2 response_id uuid
UPDATE qflare.response AS r
   SET needs_two = true, changed_at = clock_timestamp()
 WHERE r.tenant_id = $1
   AND r.response_id = $2
RETURNING r.response_id, r.tenant_id, r.incident_id, r.action, r.ref, r.device_id, r.source, r.rule, r.is_automatic,
       r.proven, r.needs_two, r.first_by, r.second_by, r.reason, r.state, r.before, r.changed, r.per_minute, r.lasts_s,
       r.until_at, r.asked_at, r.changed_at, r.expires_at, r.ended_by, r.ended_because,
       r.expires_at <= clock_timestamp() AS is_expired;

-- name: move_response :one
-- Change a response's state; inside a transaction that holds its row.
-- $1 tenant_id uuid, $2 response_id uuid, $3 state text, $4 before text or null, $5 changed bigint or null,
-- $6 ended_by text or null, $7 ended_because text or null
UPDATE qflare.response AS r
   SET state         = $3,
       before        = coalesce($4, r.before),
       changed       = coalesce($5, r.changed),
       ended_by      = coalesce($6, r.ended_by),
       ended_because = coalesce($7, r.ended_because),
       changed_at    = clock_timestamp(),
       applied_at    = CASE $3 WHEN 'applied' THEN clock_timestamp() ELSE r.applied_at END,
       until_at      = CASE $3 WHEN 'applied' THEN clock_timestamp() + r.lasts_s * interval '1 second'
                               ELSE r.until_at END
 WHERE r.tenant_id = $1
   AND r.response_id = $2
RETURNING r.response_id, r.tenant_id, r.incident_id, r.action, r.ref, r.device_id, r.source, r.rule, r.is_automatic,
       r.proven, r.needs_two, r.first_by, r.second_by, r.reason, r.state, r.before, r.changed, r.per_minute, r.lasts_s,
       r.until_at, r.asked_at, r.changed_at, r.expires_at, r.ended_by, r.ended_because,
       r.expires_at <= clock_timestamp() AS is_expired;

-- name: list_responses :many
-- A tenant's responses of some states, the last asked for first; inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 states text[], $3 incident_id uuid or null, $4 limit bigint, $5 after: response_id uuid or null
SELECT r.response_id, r.tenant_id, r.incident_id, r.action, r.ref, r.device_id, r.source, r.rule, r.is_automatic,
       r.proven, r.needs_two, r.first_by, r.second_by, r.reason, r.state, r.before, r.changed, r.per_minute, r.lasts_s,
       r.until_at, r.asked_at, r.changed_at, r.expires_at, r.ended_by, r.ended_because,
       r.expires_at <= clock_timestamp() AS is_expired
  FROM qflare.response AS r
 WHERE r.tenant_id = $1
   AND r.state = ANY ($2::text[])
   AND ($3::uuid IS NULL OR r.incident_id = $3)
   AND ($5::uuid IS NULL
        OR (r.asked_at, r.response_id) < (SELECT a.asked_at, a.response_id FROM qflare.response AS a
                                           WHERE a.tenant_id = $1 AND a.response_id = $5))
 ORDER BY r.asked_at DESC, r.response_id DESC
 LIMIT $4;

-- name: count_response_use :one
-- How many devices responses have shut out; inside a transaction that entered the tenant.
-- $1 tenant_id uuid
SELECT coalesce((SELECT c.active + c.suspended FROM qflare.device_count AS c WHERE c.tenant_id = $1), 0) AS devices,
       count(*) FILTER (WHERE r.first_by IS NULL AND r.applied_at > clock_timestamp() - interval '1 hour')
           AS automatic_last_hour,
       count(*) FILTER (WHERE r.first_by IS NULL AND r.state = 'applied') AS automatic_standing,
       count(*) FILTER (WHERE r.first_by IS NOT NULL AND NOT r.needs_two
                          AND r.applied_at > clock_timestamp() - interval '1 hour') AS single_last_hour
  FROM qflare.response AS r
 WHERE r.tenant_id = $1
   AND r.action IN ('quarantine', 'revoke')
   AND r.applied_at IS NOT NULL;

-- name: count_revoked_operators :one
-- How many of these operators have lost their access; inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 names text[]
SELECT count(*) AS operators
  FROM qflare.operator AS o
 WHERE o.tenant_id = $1
   AND o.name = ANY ($2::text[])
   AND o.state <> 'active';

-- name: lock_device :one
-- A device that a response is about, locked before its sessions; inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 ref bytea
SELECT d.state, d.state_reason, d.key_version
  FROM qflare.device AS d
 WHERE d.tenant_id = $1
   AND d.ref = $2
   FOR NO KEY UPDATE;

-- name: move_device :one
-- Move a device and write the event; inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 ref bytea, $3 state text, $4 reason text, $5 to $10 events
SELECT qflare.set_device_state($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS is_known;

-- name: end_device_sessions :one
-- End a device's live sessions and write the event if there are any; inside a transaction that holds the device's row.
-- $1 tenant_id uuid, $2 ref bytea, $3 to $8 events, $9 reason text
WITH live AS MATERIALIZED (
    SELECT array_agg(s.sid) AS sids
      FROM qflare.session AS s
     WHERE s.tenant_id = $1 AND s.ref = $2 AND s.state = 'live')
SELECT CASE WHEN l.sids IS NULL THEN 0
            ELSE qflare.end_sessions($1, l.sids, 'ended', $3, $4, $5, $6, $7, $8, $9) END AS ended
  FROM live AS l;

-- name: list_limits :many
-- The limits of every tenant that stand.
SELECT l.tenant_id, l.response_id, l.action, l.ref, l.source, l.per_minute
  FROM qflare.list_limits() AS l;

-- name: count_responses :many
-- Figures of every tenant's incidents and responses.
SELECT c.what, c.name, c.state, c.found, c.oldest_at
  FROM qflare.count_responses() AS c;

-- name: erase_mentions :one
-- Take a device's name out of incidents and responses, or count those that have it; inside a transaction that entered the
-- tenant.
-- $1 tenant_id uuid, $2 name text, $3 name in JSON of ASCII text, $4 alias text, or null to count
SELECT qflare.erase_mentions($1, $2, $3, $4) AS mentions;

-- name: erase_device_reason :exec
-- The same for why a device is in its state, where a response whose reason was erased put it there, whatever device the
-- reason named; by it the undoing still knows its own.  Inside a transaction that entered the tenant.
-- $1 tenant_id uuid
UPDATE qflare.device AS d
   SET state_reason = 'response ' || replace(r.response_id::text, '-', '') || ': erased'
  FROM qflare.response AS r
 WHERE r.tenant_id = $1
   AND r.reason = 'erased'
   AND r.state = 'applied'
   AND r.ref IS NOT NULL
   AND d.tenant_id = r.tenant_id
   AND d.ref = r.ref
   AND starts_with(d.state_reason, 'response ' || replace(r.response_id::text, '-', '') || ': ');

-- name: drop_finished :one
-- Remove what is finished of every tenant's responses and incidents and was not changed for long.
-- $1 keep_s bigint, $2 limit bigint
SELECT qflare.drop_finished($1, $2) AS dropped;
