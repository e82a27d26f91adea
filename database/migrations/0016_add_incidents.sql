-- Incidents that the detector opens, and what it remembers between a worker's end and the next start.
--
-- Safe while version 15 still runs: it neither reads nor writes what is new here.

SET LOCAL ROLE qflare_owner;

-- What the detector found: one row for the same signal about the same device (subject: its ref, empty for the tenant's
-- fleet) until it is closed.  Written by the workers' detectors, read and moved by operators.
CREATE TABLE qflare.incident (
    tenant_id     uuid        NOT NULL,
    incident_id   uuid        NOT NULL,
    signal        text        NOT NULL,
    severity      text        NOT NULL,
    subject       bytea       NOT NULL,
    device_id     text,
    first_seen_at timestamptz NOT NULL,
    last_seen_at  timestamptz NOT NULL,
    seen          bigint      NOT NULL,
    evidence      bytea       NOT NULL,
    state         text        NOT NULL DEFAULT 'open',
    changed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    note          text        NOT NULL DEFAULT '',
    CONSTRAINT incident_pkey PRIMARY KEY (incident_id, tenant_id),
    CONSTRAINT incident_of_tenant FOREIGN KEY (tenant_id) REFERENCES qflare.tenant (tenant_id),
    CONSTRAINT incident_signal_size CHECK (octet_length(signal) BETWEEN 1 AND 64),
    CONSTRAINT incident_severity_known CHECK (severity IN ('debug', 'info', 'warning', 'error', 'critical')),
    CONSTRAINT incident_subject_size CHECK (octet_length(subject) IN (0, 32)),
    CONSTRAINT incident_device_id_size CHECK (octet_length(device_id) BETWEEN 1 AND 255),
    CONSTRAINT incident_seen_in_order CHECK (first_seen_at <= last_seen_at),
    CONSTRAINT incident_seen_range CHECK (seen >= 1),
    CONSTRAINT incident_evidence_size CHECK (octet_length(evidence) BETWEEN 2 AND 4096),
    CONSTRAINT incident_state_known CHECK (state IN ('open', 'acknowledged', 'closed')),
    CONSTRAINT incident_note_size CHECK (octet_length(note) <= 1000)
);

-- What the detector remembers of a tenant, at most one row each: read by a worker at its start, replaced every few
-- minutes and at its end; state_version tells whether another worker was quicker.
CREATE TABLE qflare.detector_state (
    tenant_id     uuid        NOT NULL,
    state_version bigint      NOT NULL,
    state         bytea       NOT NULL,
    saved_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT detector_state_pkey PRIMARY KEY (tenant_id),
    CONSTRAINT detector_state_of_tenant FOREIGN KEY (tenant_id) REFERENCES qflare.tenant (tenant_id),
    CONSTRAINT detector_state_version_range CHECK (state_version >= 1),
    CONSTRAINT detector_state_size CHECK (octet_length(state) BETWEEN 1 AND 1048576)
);

-- Of the same signal about the same device one is not closed; read by every report.
CREATE UNIQUE INDEX incident_not_closed_once ON qflare.incident (subject, signal, tenant_id)
 WHERE state <> 'closed';
-- Read by a tenant's listing of its incidents, the last seen first.
CREATE INDEX incident_by_time ON qflare.incident (tenant_id, last_seen_at);

DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['incident', 'detector_state'] LOOP
        EXECUTE format('ALTER TABLE qflare.%I ENABLE ROW LEVEL SECURITY', v_table);
        EXECUTE format('ALTER TABLE qflare.%I FORCE ROW LEVEL SECURITY', v_table);
        EXECUTE format(
            $policy$CREATE POLICY %I ON qflare.%I TO qflare_app
                USING (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))
                WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))$policy$,
            v_table || '_of_tenant', v_table);
        EXECUTE format('CREATE POLICY %I ON qflare.%I FOR SELECT TO qflare_auditor USING (true)',
                       v_table || '_for_auditor', v_table);
    END LOOP;
END
$$;
GRANT SELECT ON qflare.incident, qflare.detector_state TO qflare_auditor;
GRANT SELECT, INSERT, UPDATE ON qflare.incident, qflare.detector_state TO qflare_app;

-- severity_rank: how grave a severity is, 1 the least.
CREATE FUNCTION qflare.severity_rank(p_severity text) RETURNS integer
LANGUAGE sql IMMUTABLE AS $$
    SELECT array_position(ARRAY['debug', 'info', 'warning', 'error', 'critical'], p_severity)
$$;

RESET ROLE;
REVOKE ALL ON FUNCTION qflare.severity_rank(text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qflare.severity_rank(text) TO qflare_app;
