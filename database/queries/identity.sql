-- name: find_identity :one
-- The identity with the highest serial; no row in an empty database.
SELECT i.server_id, i.root_key, i.certificate, i.serial, i.sealed_root, i.sealed_announce, i.sealed_log
  FROM qflare.server_identity AS i
 ORDER BY i.serial DESC
 LIMIT 1;

-- name: insert_identity :one
-- Insert an identity; no row if its serial stands already.
-- $1 serial bigint, $2 server_id bytea, $3 root_key bytea, $4 certificate bytea, $5 sealed_root bytea,
-- $6 sealed_announce bytea, $7 sealed_log bytea
INSERT INTO qflare.server_identity
       (serial, server_id, root_key, certificate, sealed_root, sealed_announce, sealed_log)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT DO NOTHING
RETURNING serial;

-- name: get_identity :one
-- The identity of one serial.
-- $1 serial bigint
SELECT i.server_id, i.root_key, i.certificate, i.serial, i.sealed_root, i.sealed_announce, i.sealed_log
  FROM qflare.server_identity AS i
 WHERE i.serial = $1;
