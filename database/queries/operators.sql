-- name: insert_operator :exec
-- $1 tenant_id uuid, $2 name text, $3 salt bytea, $4 log2_n integer, $5 r integer, $6 p integer, $7 secret_hash bytea
INSERT INTO qflare.operator (tenant_id, name, salt, log2_n, r, p, secret_hash)
VALUES ($1, $2, $3, $4, $5, $6, $7);

-- name: find_operator :one
-- One operator, without what lets them in; inside a tenant's transaction.
-- $1 tenant_id uuid, $2 name text
SELECT o.name, o.state, o.state_reason, o.created_at, o.state_changed_at
  FROM qflare.operator AS o
 WHERE o.tenant_id = $1
   AND o.name = $2;

-- name: find_verifier :one
-- What an active operator's secret is compared with; inside a tenant's transaction.
-- $1 tenant_id uuid, $2 name text
SELECT o.salt, o.log2_n, o.r, o.p, o.secret_hash
  FROM qflare.operator AS o
 WHERE o.tenant_id = $1
   AND o.name = $2
   AND o.state = 'active';

-- name: list_operators :many
-- A page of a tenant's operators in order of name; inside its transaction.
-- $1 tenant_id uuid, $2 after text, $3 limit bigint
SELECT o.name, o.state, o.state_reason, o.created_at, o.state_changed_at
  FROM qflare.operator AS o
 WHERE o.tenant_id = $1
   AND o.name > $2
 ORDER BY o.name
 LIMIT $3;

-- name: renew_operator :one
-- Replace what an active operator's secret is compared with; no row if there is none.  Inside a tenant's transaction.
-- $1 tenant_id uuid, $2 name text, $3 salt bytea, $4 log2_n integer, $5 r integer, $6 p integer, $7 secret_hash bytea
UPDATE qflare.operator AS o
   SET salt = $3, log2_n = $4, r = $5, p = $6, secret_hash = $7
 WHERE o.tenant_id = $1
   AND o.name = $2
   AND o.state = 'active'
RETURNING o.name;

-- name: revoke_operator :one
-- Take an active operator's access; no row if there is none.  Inside a tenant's transaction.
-- $1 tenant_id uuid, $2 name text, $3 reason text
UPDATE qflare.operator AS o
   SET state = 'revoked', state_reason = $3, state_changed_at = clock_timestamp()
 WHERE o.tenant_id = $1
   AND o.name = $2
   AND o.state = 'active'
RETURNING o.name;
