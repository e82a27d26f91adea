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

-- name: bucket_mark :one
-- The highest bucket that has been current.
SELECT m.bucket
  FROM qflare.bucket_mark AS m;

-- name: raise_bucket_mark :exec
-- Raise the mark; a lower value changes nothing.
-- $1 bucket bigint
UPDATE qflare.bucket_mark AS m
   SET bucket = $1
 WHERE m.bucket < $1;

-- name: delete_buckets :one
-- Delete the rows of buckets below $1 and count them: from then on nothing is written into those buckets.
-- $1 before bigint
WITH deleted AS (
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
-- name: find_chains :many
-- Sealed chain keys of sessions for a range of buckets.
-- $1 tenant_id uuid, $2 sids uuid[], $3 first bigint, $4 last bigint
SELECT c.sid, c.bucket, c.epoch, c.sealed_chain_key
  FROM qflare.find_chains($1, $2, $3, $4) AS c;

-- name: save_chains :one
-- Insert chain keys where absent; how many were new.
-- $1 tenant_ids uuid[], $2 sids uuid[], $3 buckets bigint[], $4 epochs bigint[], $5 sealed chain keys bytea[]
SELECT qflare.save_chains($1, $2, $3, $4, $5) AS saved;

-- name: list_chains :many
-- Live sessions' chain keys of one bucket in order of sid, a page at a time.
-- $1 bucket bigint, $2 limit bigint, $3 after uuid or null
SELECT c.tenant_id, c.sid, c.bucket, c.epoch, c.sealed_chain_key
  FROM qflare.list_chains($1, $2, $3) AS c;
-- name: add_devices :one
-- Register devices and write the events of those that were new.
-- $1 tenant_id uuid, $2 refs bytea[], $3 device_ids text[], $4 signature algorithms text[], $5 verification keys bytea[],
-- $6 KEM algorithms text[], $7 encapsulation keys bytea[], $8 KEM key states text[], $9 to $14 events
SELECT r.added, r.first_index, r.old_frontier
  FROM qflare.add_devices($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) AS r;

-- name: find_devices :many
-- Roster rows with their current keys.
-- $1 tenant_id uuid, $2 refs bytea[]
SELECT d.ref, d.device_id, d.state, d.key_version, d.verification_key, d.encapsulation_key, d.kem_state,
       d.registered_at, d.sealed_psk
  FROM qflare.find_devices($1, $2) AS d;

-- name: list_device_refs :many
-- A page of the roster in order of name; inside a transaction that entered the tenant.
-- $1 tenant_id uuid, $2 after text or null, $3 limit bigint
SELECT d.ref
  FROM qflare.device AS d
 WHERE d.tenant_id = $1
   AND ($2::text IS NULL OR d.device_id > $2)
 ORDER BY d.device_id
 LIMIT $3;

-- name: set_device_state :one
-- Move a device, end its sessions unless it becomes active, write the event; false if there is no such device.
-- $1 tenant_id uuid, $2 ref bytea, $3 state text, $4 reason text, $5 to $10 events
SELECT qflare.set_device_state($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) AS is_known;

-- name: rotate_device_keys :one
-- Make new keys current; 'rotated' or what stands in the way.
-- $1 tenant_id uuid, $2 ref bytea, $3 key_version bigint, $4 signature algorithm text, $5 verification key bytea,
-- $6 KEM algorithm text, $7 encapsulation key bytea, $8 KEM key state text, $9 to $14 events
SELECT qflare.rotate_device_keys($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) AS result;

-- name: set_device_psk :one
-- Store or remove a sealed pre-shared key; no row if there is no such device. Inside a tenant's transaction.
-- $1 tenant_id uuid, $2 ref bytea, $3 sealed_psk bytea or null
UPDATE qflare.device AS d
   SET sealed_psk = $3
 WHERE d.tenant_id = $1
   AND d.ref = $2
RETURNING d.ref;
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
-- name: append_events :one
-- Append events of one tenant in order.
-- $1 tenant_id uuid, $2 types text[], $3 severities text[], $4 device_ids text[], $5 data bytea[], $6 leaves bytea[],
-- $7 occurred_ms bigint[]
SELECT w.first_index, w.old_frontier
  FROM qflare.append_events($1, $2, $3, $4, $5, $6, $7) AS w;

-- name: write_events :one
-- The same inside a transaction that entered the tenant; only those with $2 true.
-- $1 tenant_id uuid, $2 keep boolean[], $3 to $8 as $2 to $7 of append_events
SELECT w.first_index, w.old_frontier
  FROM qflare.write_events($1, $2, $3, $4, $5, $6, $7, $8) AS w;

-- name: log_head :one
-- Size and frontier as committed.
SELECT h.size, h.frontier
  FROM qflare.log_head AS h;

-- name: list_entries :many
-- A tenant's entries from an index on; inside a tenant's transaction.
-- $1 tenant_id uuid, $2 first bigint, $3 limit bigint
SELECT e.log_index, e.entry_type, e.tenant_id, e.leaf_hash, e.leaf_data, e.event_type, e.severity, e.device_id, e.data,
       e.recorded_at
  FROM qflare.audit_entry AS e
 WHERE e.tenant_id = $1
   AND e.log_index >= $2
 ORDER BY e.log_index
 LIMIT $3;

-- name: become_auditor :exec
-- Act as the auditor until the transaction ends.
SELECT set_config('role', 'qflare_auditor', true);

-- name: list_all_entries :many
-- Every tenant's entries from an index on; in the auditor's transaction.
-- $1 first bigint, $2 limit bigint
SELECT e.log_index, e.entry_type, e.tenant_id, e.leaf_hash, e.leaf_data, e.event_type, e.severity, e.device_id, e.data,
       e.recorded_at
  FROM qflare.audit_entry AS e
 WHERE e.log_index >= $1
 ORDER BY e.log_index
 LIMIT $2;

-- name: find_nodes :many
-- Complete subtrees above the leaves.
-- $1 levels smallint[], $2 indexes bigint[]
SELECT n.level, n.node_index, n.hash
  FROM unnest($1::smallint[], $2::bigint[]) AS w (level, node_index)
 CROSS JOIN LATERAL (
       SELECT e.level, e.node_index, e.hash FROM qflare.log_node AS e
        WHERE e.level = w.level AND e.node_index = w.node_index LIMIT 1) AS n;

-- name: find_leaves :many
-- Leaf hashes by index, whoever they belong to.
-- $1 indexes bigint[]
SELECT l.log_index, l.leaf_hash
  FROM qflare.find_leaves($1) AS l;

-- name: save_checkpoint :exec
-- Store a signed head; the same size again keeps the first.  Its commit does not wait for the disk: the entries are
-- durable, and a head that a crash takes is signed again.
-- $1 size bigint, $2 root bytea, $3 time_s bigint, $4 signature bytea
WITH relaxed AS MATERIALIZED (SELECT set_config('synchronous_commit', 'off', true))
INSERT INTO qflare.checkpoint (size, root, time_s, signature)
SELECT $1::bigint, $2::bytea, $3::bigint, $4::bytea
  FROM relaxed
ON CONFLICT DO NOTHING;

-- name: latest_checkpoint :one
-- The signed head of the largest size.
SELECT c.size, c.root, c.time_s, c.signature
  FROM qflare.checkpoint AS c
 ORDER BY c.size DESC
 LIMIT 1;

-- name: count_events :many
-- Entries by type and severity since a time; inside a tenant's transaction.
-- $1 tenant_id uuid, $2 since timestamptz
SELECT e.event_type, e.severity, count(*) AS events
  FROM qflare.audit_entry AS e
 WHERE e.tenant_id = $1
   AND e.recorded_at >= $2
 GROUP BY e.event_type, e.severity;
-- name: confirm_sessions :one
-- H8 for a batch of claims of one tenant.
-- $1 tenant_id uuid, $2 forms smallint[], $3 ticket buckets bigint[], $4 sids uuid[], $5 refs bytea[],
-- $6 key versions bigint[], $7 starts bigint[], $8 lifetimes integer[], $9 policies bigint[], $10 th3 hashes bytea[],
-- $11 leaf hashes bytea[], $12 leaves bytea[], $13 state buckets bigint[], $14 sealed chain keys bytea[],
-- $15 proves_kem boolean[], $16 now timestamptz, $17 lowest live bucket bigint
SELECT r.results, r.log_indexes, r.first_index, r.old_frontier
  FROM qflare.confirm_sessions($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) AS r;

-- name: find_session_tenants :many
-- Which tenant each known session belongs to.
-- $1 sids uuid[]
SELECT r.sid, r.tenant_id
  FROM qflare.find_session_tenants($1) AS r;

-- name: find_sessions :many
-- The terms of sessions.
-- $1 tenant_id uuid, $2 sids uuid[]
SELECT s.sid, s.device_id, s.ref, s.key_version, s.form, s.start_bucket, s.last_bucket, s.policy, s.state, s.epoch,
       s.created_at, s.log_index
  FROM qflare.find_sessions($1, $2) AS s;

-- name: end_sessions :one
-- End live sessions and write the events; how many were live.
-- $1 tenant_id uuid, $2 sids uuid[], $3 state text, $4 to $9 events
SELECT qflare.end_sessions($1, $2, $3, $4, $5, $6, $7, $8, $9) AS ended;

-- name: lock_expired_before :one
-- The bucket below which sessions are over, held until the transaction ends.
SELECT m.expired_before
  FROM qflare.bucket_mark AS m
   FOR UPDATE;

-- name: set_expired_before :exec
-- $1 bucket bigint
UPDATE qflare.bucket_mark AS m
   SET expired_before = $1;

-- name: count_expired :one
-- Live sessions of all tenants that end in buckets $1 to $2, the last one exclusive.
-- $1 first bigint, $2 before bigint
SELECT qflare.count_expired($1, $2) AS sessions;

-- name: empty_session_slots :one
-- Empty the groups of sessions that are all over; how many groups were emptied.
SELECT qflare.empty_session_slots() AS slots;
-- name: count_keys :one
-- The figures of one tenant; inside its transaction.
-- $1 tenant_id uuid, $2 bucket bigint
SELECT d.devices_total, d.devices_active, d.devices_revoked, k.device_keys_total, s.sessions_live, s.sessions_total,
       h.handshakes_recent, m.bucket, b.oldest_live_bucket, l.size AS log_size
  FROM (SELECT count(*) AS devices_total,
               count(*) FILTER (WHERE state = 'active') AS devices_active,
               count(*) FILTER (WHERE state IN ('deactivated', 'compromised', 'destroyed')) AS devices_revoked
          FROM qflare.device WHERE tenant_id = $1) AS d
 CROSS JOIN (SELECT count(*) AS device_keys_total FROM qflare.device_key WHERE tenant_id = $1) AS k
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

-- name: schema_version :one
-- The newest version that was installed.
SELECT max(v.version) AS version
  FROM qflare.schema_version AS v;
-- name: accept_streams :one
-- Take each stream once, in a live session and a live bucket.
-- $1 tenant_id uuid, $2 sids uuid[], $3 directions smallint[], $4 stream_ids uuid[], $5 buckets bigint[],
-- $6 now timestamptz
SELECT qflare.accept_streams($1, $2, $3, $4, $5, $6) AS accepted;
-- name: insert_tenant :exec
-- $1 tenant_id uuid, $2 name text
INSERT INTO qflare.tenant (tenant_id, name)
VALUES ($1, $2);

-- name: list_tenants :many
-- Every tenant in order of name.
SELECT t.tenant_id, t.name
  FROM qflare.list_tenants() AS t;
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
-- name: enter :exec
-- Become the application's role inside one tenant until the transaction ends.
-- $1 tenant_id uuid
SELECT qflare.enter($1);

-- name: set_lock_timeout :exec
-- Wait for locks no longer than this in the present transaction.
-- $1 value text, such as '200ms'
SELECT set_config('lock_timeout', $1, true);
