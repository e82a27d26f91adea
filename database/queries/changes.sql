-- name: list_changes :one
-- Devices and sessions that changed from the mark $1 on (null: none yet), the next mark, and the cluster's bucket.
-- $1 since bigint, $2 limit bigint
SELECT r.mark, r.tenants, r.refs, r.sids, r.is_cut, (SELECT m.bucket FROM qflare.bucket_mark AS m) AS bucket
  FROM qflare.list_changes($1, $2) AS r;

-- name: drop_changes :one
-- Delete changes that every worker has seen long since; how many.
SELECT qflare.drop_changes(clock_timestamp() - interval '1 day') AS dropped;

-- name: ping_listener :exec
-- $1 channel text
SELECT pg_notify($1, '');

-- name: tell_turn :exec
-- Tell the workers that listen of an early turn, with the commit; the message only has them look at the mark.
-- $1 tenant_id uuid, $2 bucket bigint
SELECT pg_notify('qflare_change', 'bucket ' || replace($1::uuid::text, '-', '') || ' '
                                  || lpad(to_hex($2::bigint), 16, '0'));
