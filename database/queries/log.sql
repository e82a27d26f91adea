-- name: append_events :one
-- Append events of one tenant in order.
-- $1 tenant_id uuid, $2 types text[], $3 severities text[], $4 device_ids text[], $5 data bytea, $6 its edges text,
-- $7 leaves bytea, $8 their edges text, $9 leaf hashes bytea, $10 occurred_ms bigint[], $11 places of keys bigint[],
-- $12 keys bytea, $13 call ids uuid[], $14 bigint[]: of each change, its event's place among these, from 0
-- One type, severity, device or time stands for all that are alike; edges are an integer[] as text.
WITH done AS MATERIALIZED (
    SELECT w.first_index, w.old_frontier
      FROM (SELECT ARRAY[octet_length($9::bytea) / 32] AS size) AS n
     CROSS JOIN LATERAL qflare.append_entries(
               $1,
               CASE cardinality($2::text[]) WHEN 1 THEN array_fill(($2::text[])[1], n.size) ELSE $2 END,
               CASE cardinality($3::text[]) WHEN 1 THEN array_fill(($3::text[])[1], n.size) ELSE $3 END,
               CASE cardinality($4::text[]) WHEN 1 THEN array_fill(($4::text[])[1], n.size) ELSE $4 END,
               $5, $6::text::integer[], $7, $8::text::integer[], $9,
               CASE cardinality($10::bigint[]) WHEN 1 THEN array_fill(($10::bigint[])[1], n.size) ELSE $10 END,
               $11, $12) AS w)
SELECT d.first_index, d.old_frontier, qflare.note_calls($1, $13, 'event', d.first_index, $14) AS is_noted
  FROM done AS d;

-- name: write_events :one
-- The same inside a transaction that entered the tenant; only those with $2 true.
-- $1 tenant_id uuid, $2 keep boolean[], $3 types text[], $4 severities text[], $5 device_ids text[], $6 data bytea[],
-- $7 leaves bytea[], $8 occurred_ms bigint[]
SELECT w.first_index, w.old_frontier
  FROM qflare.write_events($1, $2, $3, $4, $5, $6, $7, $8) AS w;

-- name: find_run :many
-- The entry at $1 and those before it back to the first that is no session's, the last first; in a
-- tenant's transaction, which sees its own alone, or in the auditor's.
-- A session's is told by its leaf, which the tree covers, not by its column.
-- $1 log index bigint, $2 most entries bigint
SELECT a.log_index, a.tenant_id, a.entry_type, a.event_type, a.severity, a.device_id, a.leaf_hash, a.leaf_data, a.data,
       a.recorded_at, NULL::bytea AS subject, NULL::bytea AS sealed_key,
       substring(a.leaf_data FROM 10 FOR 1) = '\x01' AS is_session
  FROM qflare.audit_entry AS a
 WHERE a.log_index BETWEEN
       coalesce((SELECT b.log_index FROM qflare.audit_entry AS b
                  WHERE b.log_index > $1::bigint - $2::bigint AND b.log_index < $1
                    AND substring(b.leaf_data FROM 10 FOR 1) <> '\x01'
                  ORDER BY b.log_index DESC LIMIT 1), $1 - $2 + 1) AND $1
 ORDER BY a.log_index DESC;

-- name: log_head :one
-- Size, frontier and first heading as committed.
SELECT h.size, h.frontier, h.headed_from
  FROM qflare.log_head AS h;

-- name: list_entries :many
-- A tenant's entries from an index on; inside a tenant's transaction.
-- $1 tenant_id uuid, $2 first bigint, $3 limit bigint
SELECT e.log_index, e.entry_type, e.tenant_id, e.leaf_hash, e.leaf_data, e.event_type, e.severity, e.device_id, e.data,
       e.recorded_at, k.subject, k.sealed_key
  FROM qflare.audit_entry AS e
  LEFT JOIN LATERAL (
       SELECT o.subject, o.sealed_key FROM qflare.audit_key AS o
        WHERE o.log_index = e.log_index AND o.tenant_id = e.tenant_id LIMIT 1) AS k ON true
 WHERE e.tenant_id = $1
   AND e.log_index >= $2
 ORDER BY e.log_index
 LIMIT $3;

-- name: list_acts :many
-- A tenant's entries of some types between two indexes; inside a tenant's transaction.
-- Between two, so that the look costs the same however many sessions lie there.
-- $1 tenant_id uuid, $2 first bigint, $3 last bigint, not among them, $4 event types text[]
SELECT e.log_index, e.entry_type, e.tenant_id, e.leaf_hash, e.leaf_data, e.event_type, e.severity, e.device_id, e.data,
       e.recorded_at, k.subject, k.sealed_key
  FROM qflare.audit_entry AS e
  LEFT JOIN LATERAL (
       SELECT o.subject, o.sealed_key FROM qflare.audit_key AS o
        WHERE o.log_index = e.log_index AND o.tenant_id = e.tenant_id LIMIT 1) AS k ON true
 WHERE e.tenant_id = $1
   AND e.log_index >= $2
   AND e.log_index < $3
   AND e.event_type = ANY ($4::text[])
 ORDER BY e.log_index;

-- name: become_auditor :exec
-- Act as the auditor until the transaction ends.
SELECT set_config('role', 'qflare_auditor', true);

-- name: list_all_entries :many
-- Every tenant's entries from an index on; in the auditor's transaction.
-- $1 first bigint, $2 limit bigint
SELECT e.log_index, e.entry_type, e.tenant_id, e.leaf_hash, e.leaf_data, e.event_type, e.severity, e.device_id, e.data,
       e.recorded_at, k.subject, k.sealed_key
  FROM qflare.audit_entry AS e
  LEFT JOIN LATERAL (
       SELECT o.subject, o.sealed_key FROM qflare.audit_key AS o
        WHERE o.log_index = e.log_index AND o.tenant_id = e.tenant_id LIMIT 1) AS k ON true
 WHERE e.log_index >= $1
 ORDER BY e.log_index
 LIMIT $2;

-- name: find_subject_entries :many
-- Entries of a subject that can still be opened, in order; inside a tenant's transaction.
-- $1 tenant_id uuid, $2 subject bytea, $3 limit bigint
SELECT k.log_index
  FROM qflare.audit_key AS k
 WHERE k.tenant_id = $1
   AND k.subject = $2
 ORDER BY k.log_index
 LIMIT $3;

-- name: find_entry_keys :many
-- Keys of sealed entries, erased ones left out, by index; inside a tenant's transaction.
-- $1 tenant_id uuid, $2 indexes bigint[]
SELECT k.log_index, k.subject, k.sealed_key
  FROM qflare.audit_key AS k
 WHERE k.tenant_id = $1
   AND k.log_index = ANY ($2::bigint[]);

-- name: drop_entry_keys :many
-- Destroy the keys of a subject's entries; inside a tenant's transaction.
-- $1 tenant_id uuid, $2 subject bytea, $3 indexes bigint[]
DELETE FROM qflare.audit_key AS k
 WHERE k.tenant_id = $1
   AND k.subject = $2
   AND k.log_index = ANY ($3)
RETURNING k.log_index;

-- name: count_named_entries :one
-- Entries of type 2 that name a device in their leaves, which nothing erases; inside a tenant's transaction.
-- $1 tenant_id uuid, $2 device_id text
SELECT count(*) AS entries
  FROM qflare.audit_entry AS e
 WHERE e.tenant_id = $1
   AND e.device_id = $2;

-- name: find_nodes :many
-- Complete subtrees above the leaves.
-- $1 levels smallint[], $2 indexes bigint[]
SELECT n.level, n.node_index, n.hash
  FROM unnest($1::smallint[], $2::bigint[]) AS w (level, node_index)
 CROSS JOIN LATERAL (
       SELECT e.level, e.node_index, e.hash FROM qflare.log_node AS e
        WHERE e.level = w.level AND e.node_index = w.node_index LIMIT 1) AS n;

-- name: find_leaf_pairs :many
-- Both leaf hashes below nodes of level 1, as they were when the nodes were made; nodes of earlier versions have none.
-- $1 indexes bigint[]
SELECT n.node_index, n.leaf_pair
  FROM unnest($1::bigint[]) AS w (node_index)
 CROSS JOIN LATERAL (
       SELECT e.node_index, e.leaf_pair FROM qflare.log_node AS e
        WHERE e.level = 1 AND e.node_index = w.node_index LIMIT 1) AS n
 WHERE n.leaf_pair IS NOT NULL;

-- name: find_hashes :many
-- Complete subtrees above the leaves, and leaf hashes, whoever they belong to: what a proof needs, in one round trip.
-- $1 levels smallint[], $2 indexes bigint[], $3 indexes of leaves bigint[]
SELECT n.level, n.node_index, n.hash
  FROM unnest($1::smallint[], $2::bigint[]) AS w (level, node_index)
 CROSS JOIN LATERAL (
       SELECT e.level, e.node_index, e.hash FROM qflare.log_node AS e
        WHERE e.level = w.level AND e.node_index = w.node_index LIMIT 1) AS n
 UNION ALL
SELECT 0, l.log_index, l.leaf_hash
  FROM qflare.find_leaves($3::bigint[]) AS l;

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

-- name: list_checkpoints :many
-- Signed heads by size.
-- $1 first size bigint, $2 limit bigint
SELECT c.size, c.root, c.time_s, c.signature
  FROM qflare.checkpoint AS c
 WHERE c.size >= $1
 ORDER BY c.size
 LIMIT $2;

-- name: find_leaves_audited :many
-- Leaf hashes by index; in the auditor's transaction.
-- $1 indexes bigint[]
SELECT e.log_index, e.leaf_hash
  FROM qflare.audit_entry AS e
 WHERE e.log_index = ANY ($1::bigint[])
 UNION ALL
SELECT l.log_index, l.leaf_hash
  FROM qflare.archived_leaf AS l
 WHERE l.log_index = ANY ($1::bigint[]);

-- name: list_archived_leaves :many
-- Leaf hashes of entries that were archived and dropped, from an index on; in the auditor's transaction.
-- $1 first bigint, $2 limit bigint
SELECT l.log_index, l.leaf_hash
  FROM qflare.archived_leaf AS l
 WHERE l.log_index >= $1
 ORDER BY l.log_index
 LIMIT $2;

-- name: drop_archived_entries :one
-- Drop up to so many of the oldest entries, whose archive an entry tells of; for who may change the schema.
-- $1 before bigint, $2 entry bigint, $3 limit integer
SELECT qflare.drop_archived_entries($1, $2, $3) AS dropped;

-- name: count_events :many
-- Entries by type and severity since a time; inside a tenant's transaction.
-- $1 tenant_id uuid, $2 since timestamptz
SELECT e.event_type, e.severity, count(*) AS events
  FROM qflare.audit_entry AS e
 WHERE e.tenant_id = $1
   AND e.recorded_at >= $2
 GROUP BY e.event_type, e.severity;

-- name: latest_events :many
-- Where a tenant's newest entries stand that are no sessions' and no headings of these, newest first; inside a tenant's transaction.
-- Among the last $3 of its entries, so that the look costs the same however many sessions lie between.
-- $1 tenant_id uuid, $2 limit bigint, $3 bigint, $4 severities text[]
SELECT e.log_index
  FROM (SELECT a.log_index, a.entry_type, a.event_type, a.severity
          FROM qflare.audit_entry AS a
         WHERE a.tenant_id = $1
         ORDER BY a.log_index DESC
         LIMIT $3) AS e
 WHERE e.entry_type <> 1
   AND e.event_type <> 'session_heading'
   AND e.severity = ANY ($4::text[])
 ORDER BY e.log_index DESC
 LIMIT $2;
