-- name: find_chains :many
-- Sealed chain keys of sessions for a range of buckets.
-- $1 tenant_id uuid, $2 sids uuid[], $3 first bigint, $4 last bigint
SELECT c.sid, c.bucket, c.epoch, c.sealed_chain_key
  FROM qflare.find_chains($1, $2, $3, $4) AS c;

-- name: save_chains :one
-- Insert chain keys where absent; how many were new.
-- $1 tenant_ids uuid[], $2 sids uuid[], $3 buckets bigint[], $4 epochs bigint[], $5 sealed chain keys bytea[]
SELECT qflare.save_chains($1, $2, $3, $4, $5) AS saved;
