-- name: beat_worker :exec
-- Say that a worker serves.
-- $1 worker_id uuid
INSERT INTO qflare.worker_beat AS b (worker_id)
VALUES ($1)
    ON CONFLICT ON CONSTRAINT worker_beat_pkey DO UPDATE
   SET beaten_at = clock_timestamp();

-- name: count_workers :one
-- How many workers said lately that they serve, other than one.
-- $1 worker_id uuid, $2 lately_s bigint
SELECT count(*) AS workers
  FROM qflare.worker_beat AS b
 WHERE b.worker_id <> $1
   AND b.beaten_at > clock_timestamp() - make_interval(secs => $2);

-- name: drop_beats :exec
-- Forget one worker, and all that have said nothing for long.
-- $1 worker_id uuid or null, $2 lately_s bigint
DELETE FROM qflare.worker_beat AS b
 WHERE b.worker_id = $1
    OR b.worker_id IN (SELECT o.worker_id FROM qflare.worker_beat AS o
                        WHERE o.beaten_at <= clock_timestamp() - make_interval(secs => $2)
                          FOR UPDATE SKIP LOCKED);
