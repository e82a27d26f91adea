-- name: find_two_person_control :one
-- Whether two operators must want what nothing takes back; inside a transaction that entered the tenant.
-- $1 tenant_id uuid
SELECT c.is_on, c.changed_by, c.changed_at, c.off_by, c.off_at
  FROM qflare.two_person_control AS c
 WHERE c.tenant_id = $1;

-- name: lock_two_person_control :one
-- The same, locked for a change; inside a transaction that entered the tenant.
-- $1 tenant_id uuid
SELECT c.is_on, c.changed_by, c.changed_at, c.off_by, c.off_at,
       coalesce(c.off_at > clock_timestamp() - interval '1 day', false) AS is_asked_off
  FROM qflare.two_person_control AS c
 WHERE c.tenant_id = $1
   FOR UPDATE;

-- name: count_active_operators :one
-- How many operators a tenant has; inside a transaction that entered it.
-- $1 tenant_id uuid
SELECT count(*) AS operators
  FROM qflare.operator AS o
 WHERE o.tenant_id = $1
   AND o.state = 'active';

-- name: require_two_persons :one
-- Turn two-person control on, or forget that it was to be turned off; inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 changed_by text
INSERT INTO qflare.two_person_control AS c (tenant_id, is_on, changed_by)
VALUES ($1, true, $2)
ON CONFLICT (tenant_id) DO UPDATE
   SET is_on = true, changed_by = $2, changed_at = clock_timestamp(), off_by = NULL, off_at = NULL
RETURNING c.is_on, c.changed_by, c.changed_at, c.off_by, c.off_at;

-- name: ask_one_person :one
-- Note who asks that two-person control be turned off; inside a transaction that holds its row.
-- $1 tenant_id uuid, $2 off_by text
UPDATE qflare.two_person_control AS c
   SET off_by = $2, off_at = clock_timestamp()
 WHERE c.tenant_id = $1
RETURNING c.is_on, c.changed_by, c.changed_at, c.off_by, c.off_at;

-- name: allow_one_person :one
-- Turn two-person control off; inside a transaction that holds its row.
-- $1 tenant_id uuid, $2 changed_by text
UPDATE qflare.two_person_control AS c
   SET is_on = false, changed_by = $2, changed_at = clock_timestamp()
 WHERE c.tenant_id = $1
RETURNING c.is_on, c.changed_by, c.changed_at, c.off_by, c.off_at;
