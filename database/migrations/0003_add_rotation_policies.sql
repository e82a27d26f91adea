-- Version 3: rotation policies, the marks they make, and what sessions and device keys have carried.
--
-- Safe while version 2 still runs: it neither reads nor writes what is new here, and the new columns of session
-- have defaults.  The index on device keeps registrations waiting while it is built, about a second a million devices.

SET LOCAL ROLE qflare_owner;

ALTER TABLE qflare.session ADD COLUMN records bigint NOT NULL DEFAULT 0;
ALTER TABLE qflare.session ADD COLUMN bytes bigint NOT NULL DEFAULT 0;

-- When a tenant's device keys are due for rotation, at most one row a tenant; read by every worker's maintenance, and
-- locked by whoever marks keys, so that all workers together keep to the share a minute.
CREATE TABLE qflare.rotation_policy (
    tenant_id       uuid        NOT NULL,
    max_age_s       bigint,
    max_records     bigint,
    max_bytes       bigint,
    jitter_percent  smallint    NOT NULL,
    minute_ppm      integer     NOT NULL,
    grace_s         bigint,
    changed_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    counted_devices bigint      NOT NULL DEFAULT 0,
    counted_at      timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT rotation_policy_pkey PRIMARY KEY (tenant_id),
    CONSTRAINT rotation_policy_of_tenant FOREIGN KEY (tenant_id) REFERENCES qflare.tenant (tenant_id),
    CONSTRAINT rotation_policy_bounds_something CHECK (num_nonnulls(max_age_s, max_records, max_bytes) > 0),
    CONSTRAINT rotation_policy_max_age_range CHECK (max_age_s % 3600 = 0 AND max_age_s BETWEEN 7200 AND 315360000),
    CONSTRAINT rotation_policy_max_records_range CHECK (max_records BETWEEN 1 AND 4294967296),
    CONSTRAINT rotation_policy_max_bytes_range CHECK (max_bytes BETWEEN 1 AND 17592186044416),
    CONSTRAINT rotation_policy_jitter_divides CHECK (jitter_percent IN (0, 1, 2, 4, 5, 10, 20, 25, 50)),
    CONSTRAINT rotation_policy_minute_range CHECK (minute_ppm BETWEEN 1 AND 1000000),
    CONSTRAINT rotation_policy_grace_range CHECK (grace_s BETWEEN 3600 AND 31536000),
    CONSTRAINT rotation_policy_counted_range CHECK (counted_devices >= 0)
);

-- Which device keys are due, and why: written once a key version, void as soon as the device has another version.
-- Read when a device asks (E4), and by the count of the last minute.
CREATE TABLE qflare.rotation_mark (
    tenant_id   uuid        NOT NULL,
    ref         bytea       NOT NULL,
    key_version bigint      NOT NULL,
    reason      text        NOT NULL,
    due_at      timestamptz NOT NULL,
    marked_at   timestamptz NOT NULL,
    CONSTRAINT rotation_mark_pkey PRIMARY KEY (ref, tenant_id),
    CONSTRAINT rotation_mark_of_device FOREIGN KEY (ref, tenant_id) REFERENCES qflare.device (ref, tenant_id),
    CONSTRAINT rotation_mark_key_version_range CHECK (key_version BETWEEN 1 AND 4294967295),
    CONSTRAINT rotation_mark_reason_known CHECK (reason IN ('age', 'records', 'bytes'))
);

-- What the sessions of a device's key version have carried; added to by every worker's flush, read by the policies.
CREATE TABLE qflare.device_use (
    tenant_id   uuid   NOT NULL,
    ref         bytea  NOT NULL,
    key_version bigint NOT NULL,
    records     bigint NOT NULL,
    bytes       bigint NOT NULL,
    CONSTRAINT device_use_pkey PRIMARY KEY (ref, key_version, tenant_id),
    CONSTRAINT device_use_of_device FOREIGN KEY (ref, tenant_id) REFERENCES qflare.device (ref, tenant_id),
    CONSTRAINT device_use_key_version_range CHECK (key_version BETWEEN 1 AND 4294967295),
    CONSTRAINT device_use_range CHECK (records >= 0 AND bytes >= 0)
);

-- Read by the policies' walk over one tenant's devices, a page at a time.
CREATE INDEX device_by_tenant ON qflare.device (tenant_id, ref);
-- Read when keys are marked: how many were marked within the last minute.
CREATE INDEX rotation_mark_by_time ON qflare.rotation_mark (tenant_id, marked_at);

ALTER TABLE qflare.rotation_policy ENABLE ROW LEVEL SECURITY;
ALTER TABLE qflare.rotation_policy FORCE ROW LEVEL SECURITY;
CREATE POLICY rotation_policy_of_tenant ON qflare.rotation_policy TO qflare_app
    USING (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid));
CREATE POLICY rotation_policy_for_auditor ON qflare.rotation_policy FOR SELECT TO qflare_auditor USING (true);
GRANT SELECT ON qflare.rotation_policy TO qflare_auditor;
ALTER TABLE qflare.rotation_mark ENABLE ROW LEVEL SECURITY;
ALTER TABLE qflare.rotation_mark FORCE ROW LEVEL SECURITY;
CREATE POLICY rotation_mark_of_tenant ON qflare.rotation_mark TO qflare_app
    USING (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid));
CREATE POLICY rotation_mark_for_auditor ON qflare.rotation_mark FOR SELECT TO qflare_auditor USING (true);
GRANT SELECT ON qflare.rotation_mark TO qflare_auditor;
ALTER TABLE qflare.device_use ENABLE ROW LEVEL SECURITY;
ALTER TABLE qflare.device_use FORCE ROW LEVEL SECURITY;
CREATE POLICY device_use_of_tenant ON qflare.device_use TO qflare_app
    USING (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid));
CREATE POLICY device_use_for_auditor ON qflare.device_use FOR SELECT TO qflare_auditor USING (true);
GRANT SELECT ON qflare.device_use TO qflare_auditor;
CREATE POLICY rotation_policy_for_maintenance ON qflare.rotation_policy FOR SELECT TO qflare_maintenance USING (true);
GRANT SELECT, INSERT, UPDATE, DELETE ON qflare.rotation_policy TO qflare_app;
GRANT SELECT, INSERT, UPDATE ON qflare.rotation_mark, qflare.device_use TO qflare_app;
GRANT SELECT ON qflare.rotation_policy TO qflare_maintenance;

-- list_rotatable_keys: a page of a tenant's active devices in order of ref, with all that decides whether keys are due.
-- Times are whole seconds of the database's clock, which all workers share.
CREATE FUNCTION qflare.list_rotatable_keys(p_tenant uuid, p_after bytea, p_limit bigint)
RETURNS TABLE (ref bytea, device_id text, key_version bigint, created_s bigint, records bigint, bytes bigint,
               marked_s bigint, mark_reason text, now_s bigint)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_now     CONSTANT bigint  := floor(extract(epoch FROM clock_timestamp()))::bigint;
BEGIN
    RETURN QUERY
    SELECT d.ref, d.device_id, d.key_version::bigint, floor(extract(epoch FROM k.created_at))::bigint,
           coalesce(u.records, 0), coalesce(u.bytes, 0), floor(extract(epoch FROM m.marked_at))::bigint, m.reason, v_now
      FROM (SELECT e.ref, e.device_id, e.key_version
              FROM qflare.device AS e
             WHERE e.tenant_id = p_tenant AND e.ref > p_after AND e.state = 'active'
             ORDER BY e.ref
             LIMIT p_limit) AS d
     CROSS JOIN LATERAL (
           SELECT e.created_at FROM qflare.device_key AS e
            WHERE e.tenant_id = p_tenant AND e.ref = d.ref AND e.key_version = d.key_version
              AND e.kind = 'signature' LIMIT 1) AS k
      LEFT JOIN LATERAL (
           SELECT e.records, e.bytes FROM qflare.device_use AS e
            WHERE e.tenant_id = p_tenant AND e.ref = d.ref AND e.key_version = d.key_version LIMIT 1) AS u ON true
      LEFT JOIN LATERAL (
           SELECT e.marked_at, e.reason FROM qflare.rotation_mark AS e
            WHERE e.tenant_id = p_tenant AND e.ref = d.ref AND e.key_version = d.key_version LIMIT 1) AS m ON true
     ORDER BY d.ref;
END
$$;

-- mark_rotations: mark keys as due, as many as the tenant's share a minute still allows, and write their events.
-- Whatever the caller believes: without a policy none, none twice, and none that is younger than an hour.
CREATE FUNCTION qflare.mark_rotations(
    p_tenant uuid, p_refs bytea[], p_key_versions bigint[], p_reasons text[], p_due_s bigint[], p_types text[],
    p_severities text[], p_devices text[], p_data bytea[], p_leaves bytea[], p_occurred_ms bigint[],
    OUT marked boolean[], OUT first_index bigint, OUT old_frontier bytea)
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_policy  qflare.rotation_policy;
    v_now     timestamptz;
    v_room    bigint;
BEGIN
    marked := array_fill(false, ARRAY[cardinality(p_refs)]);
    SELECT * INTO v_policy FROM qflare.rotation_policy AS p WHERE p.tenant_id = p_tenant FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    v_now := clock_timestamp();     -- after the lock: later than every mark that others have made
    IF v_policy.counted_at NOT BETWEEN v_now - interval '10 minutes' AND v_now THEN
        -- Counting a million devices is too dear for every call.
        SELECT count(*) INTO v_policy.counted_devices
          FROM qflare.device AS d WHERE d.tenant_id = p_tenant AND d.state = 'active';
        UPDATE qflare.rotation_policy AS p
           SET counted_devices = v_policy.counted_devices, counted_at = v_now
         WHERE p.tenant_id = p_tenant;
    END IF;
    -- A share below one device is one device: else a small fleet would never be done.
    SELECT greatest(1, v_policy.counted_devices * v_policy.minute_ppm / 1000000) - count(*) INTO v_room
      FROM qflare.rotation_mark AS m
     WHERE m.tenant_id = p_tenant AND m.marked_at > v_now - interval '1 minute';
    FOR v_place IN 1 .. cardinality(p_refs) LOOP
        EXIT WHEN v_room <= 0;
        -- No lock on the device: a mark for a version that ends meanwhile is void.
        CONTINUE WHEN NOT EXISTS (
            SELECT FROM qflare.device AS d
             WHERE d.tenant_id = p_tenant AND d.ref = p_refs[v_place] AND d.state = 'active'
               AND d.key_version = p_key_versions[v_place] LIMIT 1);
        CONTINUE WHEN NOT EXISTS (
            SELECT FROM qflare.device_key AS k
             WHERE k.tenant_id = p_tenant AND k.ref = p_refs[v_place] AND k.key_version = p_key_versions[v_place]
               AND k.kind = 'signature' AND k.created_at <= v_now - interval '1 hour' LIMIT 1);
        INSERT INTO qflare.rotation_mark AS m (tenant_id, ref, key_version, reason, due_at, marked_at)
        VALUES (p_tenant, p_refs[v_place], p_key_versions[v_place], p_reasons[v_place],
                to_timestamp(p_due_s[v_place]), v_now)
        ON CONFLICT (ref, tenant_id) DO UPDATE
           SET key_version = EXCLUDED.key_version, reason = EXCLUDED.reason, due_at = EXCLUDED.due_at,
               marked_at = EXCLUDED.marked_at
         WHERE m.key_version < EXCLUDED.key_version;
        IF FOUND THEN
            marked[v_place] := true;
            v_room := v_room - 1;
        END IF;
    END LOOP;
    SELECT w.first_index, w.old_frontier INTO first_index, old_frontier
      FROM qflare.write_events(p_tenant, marked, p_types, p_severities, p_devices, p_data, p_leaves,
                               p_occurred_ms) AS w;
END
$$;

-- find_rotation_marks: the marks that hold, of devices' current keys; is_overdue once the policy's grace is over.
CREATE FUNCTION qflare.find_rotation_marks(p_tenant uuid, p_refs bytea[])
RETURNS TABLE (ref bytea, key_version bigint, reason text, due_at timestamptz, marked_at timestamptz,
               is_overdue boolean)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_grace_s CONSTANT bigint  := (SELECT p.grace_s FROM qflare.rotation_policy AS p WHERE p.tenant_id = p_tenant);
BEGIN
    RETURN QUERY
    SELECT w.ref, m.key_version, m.reason, m.due_at, m.marked_at,
           coalesce(m.marked_at + v_grace_s * interval '1 second' < clock_timestamp(), false)
      FROM unnest(p_refs) AS w (ref)
     CROSS JOIN LATERAL (
           SELECT e.key_version FROM qflare.device AS e WHERE e.tenant_id = p_tenant AND e.ref = w.ref LIMIT 1) AS d
     CROSS JOIN LATERAL (
           SELECT e.key_version, e.reason, e.due_at, e.marked_at FROM qflare.rotation_mark AS e
            WHERE e.tenant_id = p_tenant AND e.ref = w.ref AND e.key_version = d.key_version LIMIT 1) AS m;
END
$$;

-- count_use: add what sessions have carried since the worker's last flush; returns their sums, and whether the device's
-- current keys are overdue.  Sessions that are not the tenant's are left out.
CREATE FUNCTION qflare.count_use(p_tenant uuid, p_sids uuid[], p_records bigint[], p_bytes bigint[])
RETURNS TABLE (sid uuid, ref bytea, records bigint, bytes bigint, is_overdue boolean)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered  CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_use      record;
    v_sids     uuid[]   := '{}';
    v_refs     bytea[]  := '{}';
    v_versions bigint[] := '{}';
    v_records  bigint[] := '{}';
    v_bytes    bigint[] := '{}';
    v_sums     bigint[] := '{}';
    v_sizes    bigint[] := '{}';
BEGIN
    -- In order of sid, so that two workers that flush the same sessions wait for each other instead of locking up.
    FOR v_use IN
        SELECT u.sid, sum(u.records)::bigint AS records, sum(u.bytes)::bigint AS bytes
          FROM unnest(p_sids, p_records, p_bytes) AS u (sid, records, bytes)
         GROUP BY u.sid ORDER BY u.sid
    LOOP
        UPDATE qflare.session AS s
           SET records = s.records + v_use.records, bytes = s.bytes + v_use.bytes
         WHERE s.tenant_id = p_tenant AND s.sid = v_use.sid
        RETURNING v_sids || s.sid, v_refs || s.ref::bytea, v_versions || s.key_version::bigint, v_sums || s.records,
                  v_sizes || s.bytes, v_records || v_use.records, v_bytes || v_use.bytes
             INTO v_sids, v_refs, v_versions, v_sums, v_sizes, v_records, v_bytes;
    END LOOP;
    INSERT INTO qflare.device_use AS u (tenant_id, ref, key_version, records, bytes)
    SELECT p_tenant, a.ref, a.key_version, sum(a.records), sum(a.bytes)
      FROM unnest(v_refs, v_versions, v_records, v_bytes) AS a (ref, key_version, records, bytes)
     GROUP BY a.ref, a.key_version
     ORDER BY a.ref, a.key_version
    ON CONFLICT ON CONSTRAINT device_use_pkey
    DO UPDATE SET records = u.records + EXCLUDED.records, bytes = u.bytes + EXCLUDED.bytes;
    RETURN QUERY
    SELECT a.sid, a.ref, a.records, a.bytes, coalesce(m.is_overdue, false)
      FROM unnest(v_sids, v_refs, v_sums, v_sizes) AS a (sid, ref, records, bytes)
      LEFT JOIN qflare.find_rotation_marks(
                    p_tenant, ARRAY(SELECT DISTINCT w.ref FROM unnest(v_refs) AS w (ref))) AS m ON m.ref = a.ref;
END
$$;

GRANT CREATE ON SCHEMA qflare TO qflare_maintenance;
SET LOCAL ROLE qflare_maintenance;

-- list_rotation_policies: every tenant's rotation policy, for the workers' maintenance.
CREATE FUNCTION qflare.list_rotation_policies()
RETURNS TABLE (tenant_id uuid, max_age_s bigint, max_records bigint, max_bytes bigint, jitter_percent smallint,
               minute_ppm integer, grace_s bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT p.tenant_id, p.max_age_s, p.max_records, p.max_bytes, p.jitter_percent, p.minute_ppm, p.grace_s
      FROM qflare.rotation_policy AS p ORDER BY p.tenant_id;
END
$$;

SET LOCAL ROLE qflare_owner;
REVOKE CREATE ON SCHEMA qflare FROM qflare_maintenance;

RESET ROLE;
REVOKE ALL ON FUNCTION qflare.list_rotatable_keys(uuid, bytea, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qflare.list_rotatable_keys(uuid, bytea, bigint) TO qflare_app;
REVOKE ALL ON FUNCTION qflare.mark_rotations(uuid, bytea[], bigint[], text[], bigint[], text[], text[], text[], bytea[], bytea[], bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qflare.mark_rotations(uuid, bytea[], bigint[], text[], bigint[], text[], text[], text[], bytea[], bytea[], bigint[]) TO qflare_app;
REVOKE ALL ON FUNCTION qflare.find_rotation_marks(uuid, bytea[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qflare.find_rotation_marks(uuid, bytea[]) TO qflare_app;
REVOKE ALL ON FUNCTION qflare.count_use(uuid, uuid[], bigint[], bigint[]) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qflare.count_use(uuid, uuid[], bigint[], bigint[]) TO qflare_app;
REVOKE ALL ON FUNCTION qflare.list_rotation_policies() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qflare.list_rotation_policies() TO qflare_app;
