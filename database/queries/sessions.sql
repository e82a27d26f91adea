-- name: head_sessions :one
-- H8 for a batch of claims of one tenant, whose sessions stand under one heading.
-- $1 tenant_id uuid, $2 forms smallint[], $3 ticket buckets bigint[], $4 sids uuid[], $5 refs bytea[],
-- $6 key versions bigint[], $7 starts bigint[], $8 lifetimes integer[], $9 policies bigint[], $10 th3 hashes bytea[],
-- $11 leaf hashes bytea[], $12 leaves bytea[], $13 state buckets bigint[], $14 sealed chain keys bytea[],
-- $15 proves_kem boolean[], $16 now timestamptz, $17 lowest live bucket bigint, $18 heading's leaf bytea, $19 what its row stores bytea
-- Of forms, ticket buckets, key versions, starts, lifetimes, policies, state buckets and proves_kem one value alone may
-- come for all claims: the driver then writes one instead of hundreds that are alike.
SELECT r.results, r.log_indexes, r.first_index, r.old_frontier
  FROM (SELECT ARRAY[cardinality($4::uuid[])] AS claims) AS n
 CROSS JOIN LATERAL qflare.head_sessions(
           $1,
           CASE cardinality($2::smallint[])  WHEN 1 THEN array_fill($2[1],  n.claims) ELSE $2  END,
           CASE cardinality($3::bigint[])    WHEN 1 THEN array_fill($3[1],  n.claims) ELSE $3  END,
           $4, $5,
           CASE cardinality($6::bigint[])    WHEN 1 THEN array_fill($6[1],  n.claims) ELSE $6  END,
           CASE cardinality($7::bigint[])    WHEN 1 THEN array_fill($7[1],  n.claims) ELSE $7  END,
           CASE cardinality($8::integer[])   WHEN 1 THEN array_fill($8[1],  n.claims) ELSE $8  END,
           CASE cardinality($9::bigint[])    WHEN 1 THEN array_fill($9[1],  n.claims) ELSE $9  END,
           $10, $11, $12,
           CASE cardinality($13::bigint[])   WHEN 1 THEN array_fill($13[1], n.claims) ELSE $13 END,
           $14,
           CASE cardinality($15::boolean[])  WHEN 1 THEN array_fill($15[1], n.claims) ELSE $15 END,
           $16, $17, $18, $19) AS r;

-- name: find_session_tenants :many
-- Which tenant each known session belongs to.
-- $1 sids uuid[]
SELECT r.sid, r.tenant_id
  FROM qflare.find_session_tenants($1) AS r;

-- name: find_sessions :many
-- The terms of sessions, and how they ended.
-- $1 tenant_id uuid, $2 sids uuid[]
SELECT s.sid, s.device_id, s.ref, s.key_version, s.form, s.start_bucket, s.last_bucket, s.policy, s.state, s.epoch,
       s.created_at, s.log_index, s.ended_at, s.end_reason
  FROM qflare.tell_sessions($1, $2) AS s;

-- name: end_sessions :one
-- End live sessions and write the events; how many were live.
-- $1 tenant_id uuid, $2 sids uuid[], $3 state text, $4 to $9 events, $10 call id uuid, $11 reason text
WITH done AS MATERIALIZED (
    SELECT qflare.end_sessions($1, $2, $3, $4, $5, $6, $7, $8, $9, $11) AS ended)
SELECT d.ended, qflare.note_calls($1, ARRAY[$10::uuid], 'session-end', d.ended, ARRAY[0::bigint]) AS is_noted
  FROM done AS d;

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

-- name: rekey_session :one
-- Make the next epoch the session's (R7); the result in words.
-- $1 tenant_id uuid, $2 sid uuid, $3 epoch bigint, $4 body hash bytea, $5 first bucket of the new chain bigint,
-- $6 buckets bigint[], $7 epochs bigint[], $8 sealed chain keys bytea[], $9 to $14 events, $15 bucket mark bigint
SELECT qflare.rekey_session($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) AS result;

-- name: list_session_ids :many
-- A page of a tenant's sessions in order of id; inside its transaction.
-- $1 tenant_id uuid, $2 after uuid, $3 limit bigint
SELECT s.sid
  FROM qflare.session AS s
 WHERE s.tenant_id = $1
   AND s.sid > $2
 ORDER BY s.sid
 LIMIT $3;

-- name: list_live_session_ids :many
-- A device's live sessions; inside its tenant's transaction.
-- $1 tenant_id uuid, $2 ref bytea, $3 limit bigint
SELECT s.sid
  FROM qflare.session AS s
 WHERE s.tenant_id = $1
   AND s.ref = $2
   AND s.state = 'live'
 LIMIT $3;
