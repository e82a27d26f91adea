-- name: accept_requests :one
-- Take the streams of a device's requests, each with the key of its reply.
-- $1 tenant_id uuid, $2 sids uuid[], $3 request_ids uuid[], $4 buckets bigint[], $5 epochs bigint[],
-- $6 last buckets of the replies bigint[], $7 buckets whose KEK sealed bigint[], $8 sealed reply keys bytea[],
-- $9 most outstanding ones a session bigint, $10 now timestamptz
SELECT qflare.accept_requests($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS results;

-- name: save_reply_keys :one
-- Keep the keys of replies to our own requests.
-- $1 to $9 as accept_requests
SELECT qflare.save_reply_keys($1, $2, $3, $4, $5, $6, $7, $8, $9) AS results;

-- name: find_reply_keys :many
-- Keys of outstanding replies.
-- $1 tenant_id uuid, $2 sids uuid[], $3 request_ids uuid[]
SELECT r.sid, r.request_id, r.direction, r.request_bucket, r.request_epoch, r.expires_bucket, r.bucket,
       r.sealed_reply_key
  FROM qflare.find_reply_keys($1, $2, $3) AS r;

-- name: take_reply_keys :one
-- Delete the keys of replies that are taken.
-- $1 tenant_id uuid, $2 sids uuid[], $3 request_ids uuid[], $4 direction smallint, $5 the server's bucket bigint,
-- $6 now timestamptz
SELECT qflare.take_reply_keys($1, $2, $3, $4, $5, $6) AS taken;

-- name: list_reply_keys :many
-- Keys sealed in one bucket in order of request, a page at a time.
-- $1 bucket bigint, $2 limit bigint, $3 after uuid or null
SELECT r.tenant_id, r.sid, r.request_id, r.direction, r.request_bucket, r.request_epoch, r.expires_bucket, r.bucket,
       r.sealed_reply_key
  FROM qflare.list_reply_keys($1, $2, $3) AS r;

-- name: reseal_reply_keys :one
-- Replace keys by what was sealed for a later bucket; how many were.
-- $1 tenant_ids uuid[], $2 sids uuid[], $3 request_ids uuid[], $4 buckets bigint[], $5 sealed reply keys bytea[]
SELECT qflare.reseal_reply_keys($1, $2, $3, $4, $5) AS resealed;

-- name: drop_reply_keys :one
-- Delete keys sealed below bucket $1, and those whose time ended before bucket $2, at most $3 of each; how many.
-- $1 before bigint, $2 bucket bigint, $3 limit bigint
SELECT qflare.drop_reply_keys($1, $2, $3) AS dropped;
