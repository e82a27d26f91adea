-- name: add_shares :exec
-- Add a worker's shares, each once by its number.
-- $1 worker_id uuid, $2 share_number bigint[], $3 counts bytea[]
INSERT INTO qflare.detector_share (worker_id, share_number, counts)
SELECT $1, s.share_number, s.counts
  FROM unnest($2::bigint[], $3::bytea[]) AS s (share_number, counts)
    ON CONFLICT ON CONSTRAINT detector_share_pkey DO NOTHING;

-- name: list_shares :many
-- What other workers shared after the numbers that are known of them, and not longer ago than it is kept.
-- $1 worker_id uuid, $2 workers known uuid[], $3 number known of each bigint[], $4 kept for seconds integer, $5 limit integer
SELECT s.worker_id, s.share_number, s.counts, s.written_at
  FROM qflare.detector_share AS s
  LEFT JOIN unnest($2::uuid[], $3::bigint[]) AS k (worker_id, share_number) ON k.worker_id = s.worker_id
 WHERE s.worker_id <> $1
   AND s.share_number > coalesce(k.share_number, 0)
   AND s.written_at > clock_timestamp() - make_interval(secs => $4)
 ORDER BY s.share_number, s.worker_id
 LIMIT $5;

-- name: drop_shares :exec
-- Delete shares that are older than they are kept, a bounded number; another worker that does so too waits for nobody.
-- $1 kept for seconds integer, $2 limit integer
DELETE FROM qflare.detector_share AS s
 WHERE (s.worker_id, s.share_number) IN (SELECT o.worker_id, o.share_number FROM qflare.detector_share AS o
                                          WHERE o.written_at <= clock_timestamp() - make_interval(secs => $1)
                                          ORDER BY o.worker_id, o.share_number LIMIT $2
                                            FOR UPDATE SKIP LOCKED);

-- name: note_clock :exec
-- Note how far a worker's clock is off.
-- $1 worker_id uuid, $2 offset_ms bigint
INSERT INTO qflare.detector_clock AS c (worker_id, offset_ms)
VALUES ($1, $2)
    ON CONFLICT ON CONSTRAINT detector_clock_pkey DO UPDATE
   SET offset_ms = EXCLUDED.offset_ms, noted_at = clock_timestamp();

-- name: list_clocks :many
-- How far the clocks of other workers are off that noted it lately.
-- $1 worker_id uuid, $2 kept for seconds integer
SELECT c.worker_id, c.offset_ms
  FROM qflare.detector_clock AS c
 WHERE c.worker_id <> $1
   AND c.noted_at > clock_timestamp() - make_interval(secs => $2)
 ORDER BY c.worker_id;

-- name: drop_clocks :exec
-- Delete clocks of workers that were not heard of for long.
-- $1 kept for seconds integer
DELETE FROM qflare.detector_clock AS c
 WHERE c.worker_id IN (SELECT o.worker_id FROM qflare.detector_clock AS o
                        WHERE o.noted_at <= clock_timestamp() - make_interval(secs => $1)
                          FOR UPDATE SKIP LOCKED);
