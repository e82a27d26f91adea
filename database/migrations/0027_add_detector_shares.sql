-- What the workers' detectors count together, and their clocks.
--
-- Safe while the version before still runs: it neither reads nor writes what is new here.

SET LOCAL ROLE qflare_owner;

-- What each worker's detector counted between two exchanges; read by the others' within seconds, and deleted by whichever
-- worker comes by after minutes.
CREATE TABLE qflare.detector_share (
    worker_id    uuid        NOT NULL,
    share_number bigint      NOT NULL,
    counts       bytea       NOT NULL,
    written_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT detector_share_pkey PRIMARY KEY (worker_id, share_number),
    CONSTRAINT detector_share_number_range CHECK (share_number >= 1),
    CONSTRAINT detector_share_counts_size CHECK (octet_length(counts) BETWEEN 1 AND 1048576)
);

-- How far each worker's clock is off the database's, in milliseconds; read by the other workers at each look.
CREATE TABLE qflare.detector_clock (
    worker_id uuid        NOT NULL,
    offset_ms bigint      NOT NULL,
    noted_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT detector_clock_pkey PRIMARY KEY (worker_id)
);

GRANT SELECT ON qflare.detector_share, qflare.detector_clock TO qflare_auditor;
-- UPDATE of shares to lock those that are deleted; none is ever changed.
GRANT SELECT, INSERT, UPDATE, DELETE ON qflare.detector_share, qflare.detector_clock TO qflare_app;

RESET ROLE;
