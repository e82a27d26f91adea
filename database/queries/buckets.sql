-- name: insert_bucket :one
-- Publish a bucket; no row if it was published before.
-- $1 bucket bigint, $2 width_s integer, $3 announcement bytea, $4 sealed_dk bytea, $5 sealed_ticket_key bytea
INSERT INTO qflare.bucket_key (bucket, width_s, announcement, sealed_dk, sealed_ticket_key)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT DO NOTHING
RETURNING bucket;

-- name: find_buckets :many
-- The rows of a range of buckets, both ends inclusive, in order.
-- $1 first bigint, $2 last bigint
SELECT k.bucket, k.width_s, k.announcement, k.sealed_dk, k.sealed_ticket_key
  FROM qflare.bucket_key AS k
 WHERE k.bucket BETWEEN $1 AND $2
 ORDER BY k.bucket;

-- name: sign_bucket_again :exec
-- Put an announcement that was signed again in the place of the one it was made from; not if another one came first.
-- $1 bucket bigint, $2 announcement bytea, $3 before bytea
UPDATE qflare.bucket_key AS k
   SET announcement = $2
 WHERE k.bucket = $1
   AND k.announcement = $3;

-- name: bucket_mark :one
-- The highest bucket that has been current.
SELECT m.bucket
  FROM qflare.bucket_mark AS m;

-- name: hold_rekeys :exec
-- Wait for the rekeys under way, and have those that come later wait, until the transaction ends (R7).
SELECT pg_advisory_xact_lock(1363561219, 0);

-- name: raise_bucket_mark :exec
-- Raise the mark; a lower value changes nothing.
-- $1 bucket bigint
UPDATE qflare.bucket_mark AS m
   SET bucket = $1
 WHERE m.bucket < $1;

-- name: delete_buckets :one
-- Delete the rows of buckets below $1 and count them: from then on nothing is written into those buckets.
-- $1 before bigint
WITH turned AS (
    DELETE FROM qflare.bucket_turn AS t
     WHERE t.bucket < $1),
deleted AS (
    DELETE FROM qflare.bucket_key AS k
     WHERE k.bucket < $1
    RETURNING k.bucket)
SELECT count(*) AS buckets
  FROM deleted;

-- name: delete_bucket :exec
-- Delete one bucket's row, whose KEK is lost.
-- $1 bucket bigint
DELETE FROM qflare.bucket_key AS k
 WHERE k.bucket = $1;

-- name: empty_slots :one
-- Empty the partitions of buckets that live no more; how many slots were emptied.
SELECT qflare.empty_slots() AS slots;
