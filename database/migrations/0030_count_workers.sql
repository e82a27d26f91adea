-- Which workers serve, so that each keeps its share of a rate limit.
--
-- Safe while the version before still runs: a worker of it is not counted, and counts by itself as before.

SET LOCAL ROLE qflare_owner;

-- When each worker that serves devices last said so; read by all of them while a limit stands.  Of no tenant.
CREATE TABLE qflare.worker_beat (
    worker_id uuid        NOT NULL,
    beaten_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT worker_beat_pkey PRIMARY KEY (worker_id)
);
GRANT SELECT ON qflare.worker_beat TO qflare_auditor;
GRANT SELECT, INSERT, UPDATE, DELETE ON qflare.worker_beat TO qflare_app;

RESET ROLE;
