-- How far the database has come, so that a restored copy is told from the keeper's mark (decision 0050).
-- Workers of version 1 know nothing of it: nothing of theirs changes.

-- One row: counted on every second by each worker, which then tells the keeper; a restored copy is behind the keeper.
CREATE TABLE qflare.store_pulse (
    only_row   boolean NOT NULL DEFAULT true,
    pulse    bigint  NOT NULL DEFAULT 0,
    CONSTRAINT store_pulse_pkey PRIMARY KEY (only_row),
    CONSTRAINT store_pulse_only_row CHECK (only_row),
    CONSTRAINT store_pulse_range CHECK (pulse >= 0)
);
GRANT SELECT ON qflare.store_pulse TO qflare_auditor;
GRANT SELECT, UPDATE ON qflare.store_pulse TO qflare_app;
INSERT INTO qflare.store_pulse DEFAULT VALUES;
