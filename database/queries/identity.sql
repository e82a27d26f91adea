-- name: find_identity :one
-- The identity with the highest serial; no row in an empty database.
SELECT i.server_id, i.root_key, i.certificate, i.serial, i.sealed_root, i.sealed_announce, i.sealed_log, i.current_from
  FROM qflare.server_identity AS i
 ORDER BY i.serial DESC
 LIMIT 1;

-- name: identity_serial :one
-- The highest serial; null in an empty database.
SELECT max(i.serial) AS serial
  FROM qflare.server_identity AS i;

-- name: list_certificates :many
-- Every certificate that was in force, the newest first; the signing keys stay where they are.
SELECT i.certificate
  FROM qflare.server_identity AS i
 ORDER BY i.serial DESC
 LIMIT $1;

-- name: list_identities :many
-- What is served of every identity that was in force, the newest first.
SELECT i.root_key, i.certificate
  FROM qflare.server_identity AS i
 ORDER BY i.serial DESC
 LIMIT $1;

-- name: insert_identity :one
-- Insert an identity; no row if its serial stands already.  A trigger makes its keys active.
-- $1 serial bigint, $2 server_id bytea, $3 root_key bytea, $4 certificate bytea, $5 sealed_root bytea,
-- $6 sealed_announce bytea, $7 sealed_log bytea, $8 current_from bigint
INSERT INTO qflare.server_identity
       (serial, server_id, root_key, certificate, sealed_root, sealed_announce, sealed_log, current_from)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT DO NOTHING
RETURNING serial;

-- name: get_identity :one
-- The identity of one serial.
-- $1 serial bigint
SELECT i.server_id, i.root_key, i.certificate, i.serial, i.sealed_root, i.sealed_announce, i.sealed_log, i.current_from
  FROM qflare.server_identity AS i
 WHERE i.serial = $1;

-- name: hold_identity :one
-- Let changes of the identity go one after the other, to the end of the transaction.  What is read under the lock is a
-- statement of its own: this one's snapshot is older than the wait.
-- $1 key bigint
SELECT pg_advisory_xact_lock($1) IS NULL AS held;

-- name: remove_sealed_root :many
-- Forget the root's signing key, which is kept offline from now on; no row if it is already.
UPDATE qflare.server_identity AS i
   SET sealed_root = NULL
 WHERE i.sealed_root IS NOT NULL
RETURNING i.serial;

-- name: list_server_keys :many
-- Every key of the identity with its state, the newest serial first.
-- $1 limit integer
SELECT k.key_id, k.serial, k.kind, k.state, k.state_reason, k.state_changed_at, k.created_at,
       CASE WHEN k.state = 'pre-active' THEN true
            WHEN k.kind = 'root' THEN EXISTS (SELECT FROM qflare.server_identity AS i WHERE i.sealed_root IS NOT NULL)
            ELSE EXISTS (SELECT FROM qflare.server_identity AS i
                          WHERE i.serial = k.serial
                            AND CASE k.kind WHEN 'announce' THEN i.sealed_announce ELSE i.sealed_log END IS NOT NULL)
       END AS has_signing_key
  FROM qflare.server_key AS k
 ORDER BY k.serial DESC, k.kind
 LIMIT $1;

-- name: find_pending_keys :many
-- The pre-active keys that wait for a certificate, with their sealed signing halves.
SELECT k.serial, k.kind, k.public_key, k.sealed_key
  FROM qflare.server_key AS k
 WHERE k.state = 'pre-active'
 ORDER BY k.serial, k.kind;

-- name: insert_pending_key :exec
-- Keep a key that waits for a certificate.
-- $1 serial bigint, $2 kind text, $3 public_key bytea, $4 state_reason text, $5 sealed_key bytea
INSERT INTO qflare.server_key (key_id, serial, kind, public_key, state, state_reason, sealed_key)
VALUES (sha256($3), $1, $2, $3, 'pre-active', $4, $5);

-- name: drop_pending_keys :exec
-- Destroy the keys that wait for a certificate which will not come: all but those in CERT $2.
-- $1 state_reason text, $2 certificate bytea
UPDATE qflare.server_key AS k
   SET state = 'destroyed', state_reason = $1, state_changed_at = clock_timestamp(), sealed_key = NULL
 WHERE k.state = 'pre-active'
   AND k.public_key NOT IN (substr($2::bytea, 51, 1312), substr($2::bytea, 1363, 1312));

-- name: end_server_keys :many
-- Move the active announce and log keys of serials below $1 to state $2; return what moved.
-- $1 serial bigint, $2 state text, $3 state_reason text
UPDATE qflare.server_key AS k
   SET state = $2, state_reason = $3, state_changed_at = clock_timestamp()
 WHERE k.serial < $1
   AND k.kind IN ('announce', 'log')
   AND k.state = 'active'
RETURNING k.serial, k.kind;

-- name: remove_sealed_keys :exec
-- Forget the signing halves of announce and log keys of serials below $1.
-- $1 serial bigint
UPDATE qflare.server_identity AS i
   SET sealed_announce = NULL, sealed_log = NULL
 WHERE i.serial < $1
   AND (i.sealed_announce IS NOT NULL OR i.sealed_log IS NOT NULL);
