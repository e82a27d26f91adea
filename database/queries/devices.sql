-- name: add_devices :one
-- Register devices and write the events of those that were new.
-- $1 tenant_id uuid, $2 refs bytea[], $3 device_ids text[], $4 signature algorithms text[], $5 verification keys bytea[],
-- $6 KEM algorithms text[], $7 encapsulation keys bytea[], $8 KEM key states text[], $9 to $14 events
SELECT r.added, r.first_index, r.old_frontier
  FROM qflare.add_devices($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) AS r;

-- name: add_devices_of_calls :one
-- As add_devices, and remember the calls of those that were new.
-- $1 to $14 as add_devices, $15 call ids uuid[], some null, $16 their outcomes bigint[]
WITH done AS MATERIALIZED (
    SELECT r.added, r.first_index, r.old_frontier
      FROM qflare.add_devices($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) AS r)
SELECT d.added, d.first_index, d.old_frontier,
       qflare.note_calls(
           $1,
           ARRAY(SELECT c.call_id FROM unnest(d.added, $15::uuid[]) WITH ORDINALITY AS c (is_added, call_id, place)
                  WHERE c.is_added AND c.call_id IS NOT NULL ORDER BY c.place),
           'registration', 0,
           ARRAY(SELECT c.outcome FROM unnest(d.added, $15::uuid[], $16::bigint[]) WITH ORDINALITY
                                       AS c (is_added, call_id, outcome, place)
                  WHERE c.is_added AND c.call_id IS NOT NULL ORDER BY c.place)) AS is_noted
  FROM done AS d;

-- name: find_devices :many
-- Roster rows with their current keys.
-- $1 tenant_id uuid, $2 refs bytea[]
SELECT d.ref, d.device_id, d.state, d.key_version, d.verification_key, d.encapsulation_key, d.kem_state,
       d.registered_at, d.sealed_psk, d.psk_version
  FROM qflare.find_roster($1, $2) AS d;

-- name: list_device_refs :many
-- A page of the roster in order of name; inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 after text or null, $3 limit bigint
SELECT d.ref
  FROM qflare.device AS d
 WHERE d.tenant_id = $1
   AND ($2::text IS NULL OR d.device_id > $2)
 ORDER BY d.device_id
 LIMIT $3;

-- name: list_named_device_refs :many
-- A page of the roster's names that begin alike, in order of name; inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 after text or empty, $3 limit bigint, $4 first text: how they begin, $5 last text: none of them is above
SELECT d.ref
  FROM qflare.device AS d
 WHERE d.tenant_id = $1
   AND d.device_id BETWEEN $4 AND $5
   AND d.device_id > $2
 ORDER BY d.device_id
 LIMIT $3;

-- name: set_device_state :one
-- Move a device, end its sessions unless it becomes active, write the event; false if there is no such device.
-- $1 tenant_id uuid, $2 ref bytea, $3 state text, $4 reason text, $5 to $10 events, $11 call id uuid
WITH done AS MATERIALIZED (
    SELECT qflare.set_device_state($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS is_known)
SELECT d.is_known,
       d.is_known AND qflare.note_calls($1, ARRAY[$11::uuid], 'device-state', 0, ARRAY[1::bigint]) AS is_noted
  FROM done AS d;

-- name: rotate_device_keys :one
-- Make new keys current; 'rotated' or what stands in the way.
-- $1 tenant_id uuid, $2 ref bytea, $3 key_version bigint, $4 signature algorithm text, $5 verification key bytea,
-- $6 KEM algorithm text, $7 encapsulation key bytea, $8 KEM key state text, $9 to $14 events, $15 call id uuid
WITH done AS MATERIALIZED (
    SELECT qflare.rotate_device_keys($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) AS result)
SELECT d.result,
       d.result = 'rotated' AND qflare.note_calls($1, ARRAY[$15::uuid], 'rotation', 0, ARRAY[$3::bigint]) AS is_noted
  FROM done AS d;

-- name: set_reason :one
-- Say why states change in this transaction.
-- $1 reason text
SELECT set_config('qflare.reason', $1, true) AS reason;

-- name: set_device_psk :one
-- Store or remove a sealed pre-shared key; no row if there is no such device, or another version stands before this one.
-- Inside a tenant's transaction.
-- $1 tenant_id uuid, $2 ref bytea, $3 sealed_psk bytea or null, $4 psk_version bigint
UPDATE qflare.device AS d
   SET sealed_psk = $3, psk_version = $4
 WHERE d.tenant_id = $1
   AND d.ref = $2
   AND d.psk_version = $4 - 1
RETURNING d.ref;
