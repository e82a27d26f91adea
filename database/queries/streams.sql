-- name: accept_streams :one
-- Take each stream once, in a live session and a live bucket.
-- $1 tenant_id uuid, $2 sids uuid[], $3 directions smallint[], $4 stream_ids uuid[], $5 buckets bigint[],
-- $6 epochs bigint[], $7 now timestamptz, $8 call id uuid
SELECT qflare.accept_streams($1, $2, $3, $4, $5, $6, $7, $8) AS accepted;
