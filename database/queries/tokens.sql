-- name: insert_token :exec
-- $1 tenant_id uuid, $2 token_id uuid, $3 device_id text, $4 secret_hash bytea, $5 expires_at timestamptz
INSERT INTO qflare.enrolment_token (tenant_id, token_id, device_id, secret_hash, expires_at)
VALUES ($1, $2, $3, $4, $5);

-- name: find_tokens :many
-- Tokens by id; inside a tenant's transaction.
-- $1 tenant_id uuid, $2 token_ids uuid[]
SELECT t.token_id, t.device_id, t.secret_hash, t.expires_at, t.used_at, t.used_key_hash
  FROM qflare.enrolment_token AS t
 WHERE t.tenant_id = $1
   AND t.token_id = ANY ($2);

-- name: enrol_devices :one
-- Consume tokens and register their devices, each by itself.
-- $1 tenant_id uuid, $2 token_ids uuid[], $3 key hashes bytea[], $4 refs bytea[], $5 device_ids text[],
-- $6 signature algorithms text[], $7 verification keys bytea[], $8 KEM algorithms text[], $9 encapsulation keys bytea[],
-- $10 KEM key states text[], $11 to $16 events, $17 now timestamptz
SELECT r.results, r.key_versions, r.first_index, r.old_frontier
  FROM qflare.enrol_devices($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) AS r;

-- name: list_tokens :many
-- A page of a tenant's tokens in order of id, without what opens them; inside its transaction.
-- $1 tenant_id uuid, $2 after uuid, $3 limit bigint
SELECT t.token_id, t.device_id, t.created_at, t.expires_at, t.state_reason, t.state_changed_at,
       CASE WHEN t.state = 'active' AND t.expires_at <= clock_timestamp() THEN 'expired' ELSE t.state END AS state
  FROM qflare.enrolment_token AS t
 WHERE t.tenant_id = $1
   AND t.token_id > $2
 ORDER BY t.token_id
 LIMIT $3;

-- name: get_token :one
-- One token as list_tokens has it; inside its tenant's transaction.
-- $1 tenant_id uuid, $2 token_id uuid
SELECT t.token_id, t.device_id, t.created_at, t.expires_at, t.state_reason, t.state_changed_at,
       CASE WHEN t.state = 'active' AND t.expires_at <= clock_timestamp() THEN 'expired' ELSE t.state END AS state
  FROM qflare.enrolment_token AS t
 WHERE t.tenant_id = $1
   AND t.token_id = $2;

-- name: revoke_token :one
-- Take a token back before it is used, with its event; false if there is no such token.
-- $1 tenant_id uuid, $2 token_id uuid, $3 reason text, $4 to $9 events, $10 call id uuid
WITH done AS MATERIALIZED (
    SELECT qflare.revoke_token($1, $2, $3, $4, $5, $6, $7, $8, $9) AS is_known)
SELECT d.is_known,
       d.is_known AND qflare.note_calls($1, ARRAY[$10::uuid], 'token-revoked', 0, ARRAY[1::bigint]) AS is_noted
  FROM done AS d;
