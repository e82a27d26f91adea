-- name: count_keys :one
-- The figures of one tenant; inside its transaction.
-- $1 tenant_id uuid, $2 bucket bigint
SELECT d.devices_total, d.devices_active, d.devices_revoked, d.device_keys_total, s.sessions_live, s.sessions_total,
       h.handshakes_recent, m.bucket, b.oldest_live_bucket, l.size AS log_size
  FROM (SELECT coalesce(sum(pre_active + active + suspended + deactivated + compromised + destroyed), 0)::bigint
                   AS devices_total,
               coalesce(sum(active), 0)::bigint AS devices_active,
               coalesce(sum(deactivated + compromised + destroyed), 0)::bigint AS devices_revoked,
               coalesce(sum(device_keys), 0)::bigint AS device_keys_total
          FROM qflare.device_count WHERE tenant_id = $1) AS d
 CROSS JOIN (SELECT coalesce(sum(live) FILTER (WHERE last_bucket >= $2), 0)::bigint AS sessions_live,
                    coalesce(sum(total), 0)::bigint AS sessions_total
               FROM qflare.session_count WHERE tenant_id = $1) AS s
 CROSS JOIN (SELECT count(*) AS handshakes_recent
               FROM qflare.bucket_key AS p
               JOIN qflare.handshake AS q ON q.ticket_bucket = p.bucket AND q.slot = p.bucket % 8
              WHERE q.tenant_id = $1) AS h
 CROSS JOIN (SELECT bucket FROM qflare.bucket_mark) AS m
 CROSS JOIN (SELECT coalesce(min(bucket), 0) AS oldest_live_bucket FROM qflare.bucket_key) AS b
 CROSS JOIN (SELECT size FROM qflare.log_head) AS l;

-- name: count_sessions :many
-- How many sessions of a tenant, over or not, end with each of these buckets; inside its transaction.
-- $1 tenant_id uuid, $2 first bigint, $3 last bigint
SELECT c.last_bucket, c.total
  FROM qflare.session_count AS c
 WHERE c.tenant_id = $1
   AND c.last_bucket BETWEEN $2 AND $3
 ORDER BY c.last_bucket;

-- name: schema_version :one
-- The newest version that was installed.
SELECT max(v.version) AS version
  FROM qflare.schema_version AS v;
