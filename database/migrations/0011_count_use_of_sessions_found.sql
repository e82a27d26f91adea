-- A session that is not there, or another tenant's, no longer takes what the sessions before it carried with it.
-- Workers of version 10 go on: the function is called as before.

SET LOCAL ROLE qflare_owner;

-- count_use: add what sessions have carried since the worker's last flush; returns their sums, and whether the device's
-- current keys are overdue.  Sessions that are not the tenant's are left out.
CREATE OR REPLACE FUNCTION qflare.count_use(p_tenant uuid, p_sids uuid[], p_records bigint[], p_bytes bigint[])
RETURNS TABLE (sid uuid, ref bytea, records bigint, bytes bigint, is_overdue boolean)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered  CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_use      record;
    v_session  record;
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
        RETURNING s.sid, s.ref::bytea AS ref, s.key_version::bigint AS key_version, s.records, s.bytes INTO v_session;
        -- Where none was found, INTO has emptied what it names: the sums of the others must not be among that.
        IF FOUND THEN
            v_sids := v_sids || v_session.sid;
            v_refs := v_refs || v_session.ref;
            v_versions := v_versions || v_session.key_version;
            v_sums := v_sums || v_session.records;
            v_sizes := v_sizes || v_session.bytes;
            v_records := v_records || v_use.records;
            v_bytes := v_bytes || v_use.bytes;
        END IF;
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

RESET ROLE;
