-- name: report_incidents :many
-- Add sightings to the incidents of their signals and subjects that are not closed, or open incidents; is_raised is
-- null where one was opened.  Inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 incident_ids uuid[], $3 signals text[], $4 severities text[], $5 subjects bytea[],
-- $6 device_ids text[], $7 first_seen_s bigint[], $8 last_seen_s bigint[], $9 seen bigint[], $10 evidence bytea[]
WITH old AS MATERIALIZED (
    SELECT i.signal, i.subject, i.severity
      FROM unnest($3::text[], $5::bytea[]) AS w (signal, subject)
      JOIN qflare.incident AS i
        ON i.tenant_id = $1 AND i.signal = w.signal AND i.subject = w.subject AND i.state <> 'closed'
     ORDER BY i.subject, i.signal
       FOR UPDATE OF i)
INSERT INTO qflare.incident AS i
       (tenant_id, incident_id, signal, severity, subject, device_id, first_seen_at, last_seen_at, seen, evidence)
SELECT $1, s.incident_id, s.signal, s.severity, s.subject, s.device_id, to_timestamp(s.first_s), to_timestamp(s.last_s),
       s.seen, s.evidence
  FROM unnest($2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[],
              $10::bytea[])
       AS s (incident_id, signal, severity, subject, device_id, first_s, last_s, seen, evidence)
 WHERE (SELECT count(*) FROM old) >= 0      -- read before anything is changed: what RETURNING alone asks for is read after
 ORDER BY s.subject, s.signal
ON CONFLICT (subject, signal, tenant_id) WHERE state <> 'closed' DO UPDATE
   SET severity      = CASE WHEN qflare.severity_rank(EXCLUDED.severity) > qflare.severity_rank(i.severity)
                            THEN EXCLUDED.severity ELSE i.severity END,
       evidence      = CASE WHEN qflare.severity_rank(EXCLUDED.severity) >= qflare.severity_rank(i.severity)
                            THEN EXCLUDED.evidence ELSE i.evidence END,
       device_id     = coalesce(i.device_id, EXCLUDED.device_id),
       first_seen_at = least(i.first_seen_at, EXCLUDED.first_seen_at),
       last_seen_at  = greatest(i.last_seen_at, EXCLUDED.last_seen_at),
       seen          = i.seen + EXCLUDED.seen
RETURNING i.incident_id, i.signal, i.subject, i.xmax = 0 AS is_opened,
          (SELECT o.severity <> i.severity FROM old AS o
            WHERE o.signal = i.signal AND o.subject = i.subject) AS is_raised;

-- name: list_incidents :many
-- A tenant's incidents of some states, the last seen first; inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 states text[], $3 limit bigint, $4 after: incident_id uuid or null
SELECT i.incident_id, i.tenant_id, i.signal, i.severity, i.subject, i.device_id, i.first_seen_at, i.last_seen_at, i.seen,
       i.evidence, i.state, i.changed_at, i.note, i.changed_by
  FROM qflare.incident AS i
 WHERE i.tenant_id = $1
   AND i.state = ANY ($2::text[])
   AND ($4::uuid IS NULL
        OR (i.last_seen_at, i.incident_id) < (SELECT a.last_seen_at, a.incident_id FROM qflare.incident AS a
                                               WHERE a.tenant_id = $1 AND a.incident_id = $4))
 ORDER BY i.last_seen_at DESC, i.incident_id DESC
 LIMIT $3;

-- name: find_incident :one
-- One incident; inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 incident_id uuid
SELECT i.incident_id, i.tenant_id, i.signal, i.severity, i.subject, i.device_id, i.first_seen_at, i.last_seen_at, i.seen,
       i.evidence, i.state, i.changed_at, i.note, i.changed_by
  FROM qflare.incident AS i
 WHERE i.tenant_id = $1
   AND i.incident_id = $2;

-- name: lock_incident :one
-- One incident that is to be moved, locked; inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 incident_id uuid
SELECT i.incident_id, i.tenant_id, i.signal, i.severity, i.subject, i.device_id, i.first_seen_at, i.last_seen_at, i.seen,
       i.evidence, i.state, i.changed_at, i.note, i.changed_by
  FROM qflare.incident AS i
 WHERE i.tenant_id = $1
   AND i.incident_id = $2
   FOR UPDATE;

-- name: move_incident :one
-- Change an incident's state; inside a transaction that entered the tenant and found it.
-- $1 tenant_id uuid, $2 incident_id uuid, $3 state text, $4 note text, $5 changed_by text, the operator's name
UPDATE qflare.incident AS i
   SET state = $3, note = $4, changed_by = $5, changed_at = clock_timestamp()
 WHERE i.tenant_id = $1
   AND i.incident_id = $2
RETURNING i.incident_id, i.tenant_id, i.signal, i.severity, i.subject, i.device_id, i.first_seen_at, i.last_seen_at,
          i.seen, i.evidence, i.state, i.changed_at, i.note, i.changed_by;

-- name: count_incidents :many
-- Incidents that are not closed; inside a transaction that entered the tenant.
-- $1 tenant_id uuid
SELECT i.signal, i.severity, i.state, count(*) AS incidents
  FROM qflare.incident AS i
 WHERE i.tenant_id = $1
   AND i.state <> 'closed'
 GROUP BY i.signal, i.severity, i.state;

-- name: find_detector_state :one
-- What a tenant's detectors saved last; inside a transaction that entered the tenant.
-- $1 tenant_id uuid
SELECT d.state_version, d.state, d.saved_at
  FROM qflare.detector_state AS d
 WHERE d.tenant_id = $1;

-- name: save_detector_state :one
-- Save it, if the version that was read stands still; no row if not.  Inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 state bytea, $3 version that was read bigint, 0 for none
INSERT INTO qflare.detector_state AS d (tenant_id, state_version, state)
VALUES ($1, 1, $2)
ON CONFLICT (tenant_id) DO UPDATE
   SET state_version = d.state_version + 1, state = EXCLUDED.state, saved_at = clock_timestamp()
 WHERE d.state_version = $3
RETURNING d.state_version;

-- name: count_out_of_service :one
-- A tenant's devices that were taken out of service; inside a transaction that entered the tenant.
-- $1 tenant_id uuid
SELECT coalesce(sum(c.suspended + c.deactivated + c.compromised + c.destroyed), 0)::bigint AS devices
  FROM qflare.device_count AS c
 WHERE c.tenant_id = $1;

-- name: database_time_ms :one
-- The database's clock.
SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms;
