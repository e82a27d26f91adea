-- name: store_pulse :one
-- How far this database has come; a restored copy has not come so far.
SELECT m.pulse
  FROM qflare.store_pulse AS m;

-- name: raise_pulse :one
-- Count on; what the keeper notes afterwards no older copy has.
UPDATE qflare.store_pulse AS m
   SET pulse = m.pulse + 1
RETURNING m.pulse, m.life;

-- name: begin_life :exec
-- Whoever ran on the database before is told that it is another one.
UPDATE qflare.store_pulse AS m
   SET life = gen_random_uuid();

-- name: list_tenant_ids :many
-- Every tenant's id; inside a transaction of the application.
SELECT t.tenant_id
  FROM qflare.list_tenants() AS t;

-- name: end_live_sessions :one
-- End every live session of a tenant and count them; inside its transaction.
-- $1 tenant_id uuid
WITH ended AS (
    UPDATE qflare.session AS s
       SET state = 'ended', ended_at = clock_timestamp()
     WHERE s.tenant_id = $1
       AND s.state = 'live'
    RETURNING s.sid)
SELECT count(*) AS sessions
  FROM ended;

-- name: clear_session_counts :exec
-- No session of a tenant lives.
-- $1 tenant_id uuid
UPDATE qflare.session_count AS c
   SET live = 0
 WHERE c.tenant_id = $1
   AND c.live > 0;

-- name: expire_tokens :exec
-- Tokens of a tenant that were not used are over: they may have been used after the copy was made.
-- $1 tenant_id uuid
UPDATE qflare.enrolment_token AS t
   SET expires_at = least(t.expires_at, clock_timestamp())
 WHERE t.tenant_id = $1
   AND t.used_at IS NULL;

-- name: delete_reply_keys_of_tenant :exec
-- Keys of replies that no session awaits any more.
-- $1 tenant_id uuid
DELETE FROM qflare.reply_key AS r
 WHERE r.tenant_id = $1;

-- name: drop_all_changes :exec
-- Delete what workers of another life of the database were to hear; inside a transaction of the application.
SELECT qflare.drop_changes('infinity') AS dropped;
