-- name: find_calls :many
-- Which of these changes were carried out.
-- $1 tenant_id uuid, $2 call ids uuid[]
SELECT r.call_id, r.kind, r.outcome
  FROM qflare.find_calls($1, $2) AS r;

-- name: note_call :one
-- Remember one change; the last statement of a tenant's transaction, after its events.
-- $1 tenant_id uuid, $2 call id uuid, $3 kind text, $4 outcome bigint
SELECT qflare.note_calls($1, ARRAY[$2::uuid], $3, 0, ARRAY[$4::bigint]) AS is_noted;

-- name: empty_call_slots :one
-- Empty the partition that changes go into next; how many were emptied.
SELECT qflare.empty_call_slots() AS slots;
