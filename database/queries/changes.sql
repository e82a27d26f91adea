-- name: list_changes :one
-- Devices and sessions that changed from the mark $1 on (null: none yet), and the next mark.
-- $1 since bigint, $2 limit bigint
SELECT r.mark, r.tenants, r.refs, r.sids, r.is_cut
  FROM qflare.list_changes($1, $2) AS r;

-- name: drop_changes :one
-- Delete changes that every worker has seen long since; how many.
SELECT qflare.drop_changes(clock_timestamp() - interval '1 day') AS dropped;

-- name: ping_listener :exec
-- $1 channel text
SELECT pg_notify($1, '');
