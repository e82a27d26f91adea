-- name: find_pages :many
-- The pages that hold chain keys of sessions, for a range of buckets.
-- $1 tenant_id uuid, $2 sids uuid[], $3 first bigint, $4 last bigint
SELECT p.bucket, p.sids, p.epochs, p.sealed_chain_keys
  FROM qflare.find_pages($1, $2, $3, $4) AS p;

-- name: lead_turn :one
-- Be the leader of one step of a turn until the transaction ends.
-- $1 bucket bigint, $2 whether it is the late sweep boolean, $3 sessions a step bigint
SELECT l.stage, l.done, l.ranges
  FROM qflare.lead_turn($1, $2, $3) AS l;

-- name: gather_turn_chains :many
-- Live sessions' single chain keys of the bucket before, inside a range of ids; a row a tenant.
-- $1 bucket bigint, $2 first uuid, $3 last uuid
SELECT c.tenant_id, c.sids, c.epochs, c.sealed_chain_keys
  FROM qflare.gather_turn_chains($1, $2, $3) AS c;

-- name: list_turn_pages :many
-- Pages of the bucket before that reach into a range of ids, and the places to carry on.
-- $1 bucket bigint, $2 first uuid, $3 last uuid
SELECT p.tenant_id, p.sids, p.epochs, p.sealed_chain_keys, p.places
  FROM qflare.list_turn_pages($1, $2, $3) AS p;

-- name: list_turned :many
-- Which chain keys of the bucket are rows of their own already, inside a range of ids.
-- $1 bucket bigint, $2 first uuid, $3 last uuid
SELECT c.tenant_id, c.sid, c.epoch
  FROM qflare.list_turned($1, $2, $3) AS c;

-- name: list_late_chains :many
-- Single chain keys of the bucket before that the bucket does not hold yet, inside a range of ids.
-- $1 bucket bigint, $2 first uuid, $3 last uuid
SELECT c.tenant_id, c.sid, c.epoch, c.sealed_chain_key
  FROM qflare.list_late_chains($1, $2, $3) AS c;

-- name: save_turn :exec
-- Write one step of a turn and count it.
-- $1 bucket bigint, $2 whether it is the late sweep boolean, $3 steps done before integer,
-- $4 tenants of the pages uuid[], $5 their sizes integer[], $6 their sids uuid[], $7 epochs bigint[], $8 pages bytea[],
-- $9 tenants of single chain keys uuid[], $10 sids uuid[], $11 epochs bigint[], $12 sealed chain keys bytea[]
SELECT qflare.save_turn($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) AS saved;

-- name: await_writers :exec
-- Wait until nobody who began before writes into the bucket's slot.
-- $1 bucket bigint
SELECT pg_advisory_xact_lock(1363561217, ($1::bigint % 8)::integer);

-- name: find_turn :one
-- How far the newest turn is.
SELECT t.bucket, t.ranges, t.done, t.settled, t.carried, t.begun_at, t.ended_at, t.settled_at
  FROM qflare.bucket_turn AS t
 ORDER BY t.bucket DESC
 LIMIT 1;
