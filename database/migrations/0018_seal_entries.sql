-- Log entries of type 3: fields are committed to one by one, and what tells of a device is sealed under a key of its own.
--
-- Safe while version 17 still runs: its workers write entries of type 2, and these stay valid.  They do not know the new
-- type: their `audit verify` calls such an entry unknown, and they show no data of it, until they are upgraded.  The look
-- at every entry's type reads the log once, a few seconds for ten million entries.

SET LOCAL ROLE qflare_owner;

ALTER DOMAIN qflare.audit_entry_entry_type DROP CONSTRAINT audit_entry_type_known;
ALTER DOMAIN qflare.audit_entry_entry_type ADD CONSTRAINT audit_entry_type_known CHECK (VALUE IN (1, 2, 3));

-- Keys of sealed log entries, listed under their subjects; read with the entries, and found by subject to be destroyed:
-- an entry whose key is gone is erased, and stands in the tree as before (docs/audit.md).
CREATE TABLE qflare.audit_key (
    log_index  bigint NOT NULL,
    tenant_id  uuid   NOT NULL,
    subject    bytea  NOT NULL,    -- a keyed hash of the device's name
    sealed_key bytea  NOT NULL,
    CONSTRAINT audit_key_pkey PRIMARY KEY (log_index, tenant_id),
    CONSTRAINT audit_key_log_index_range CHECK (log_index >= 0),
    CONSTRAINT audit_key_subject_size CHECK (octet_length(subject) = 32),
    CONSTRAINT audit_key_sealed_key_size CHECK (octet_length(sealed_key) BETWEEN 48 AND 128)
);
-- Read when a subject is erased.
CREATE INDEX audit_key_by_subject ON qflare.audit_key (subject, tenant_id);

ALTER TABLE qflare.audit_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE qflare.audit_key FORCE ROW LEVEL SECURITY;
CREATE POLICY audit_key_of_tenant ON qflare.audit_key TO qflare_app
    USING (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid));
CREATE POLICY audit_key_for_auditor ON qflare.audit_key FOR SELECT TO qflare_auditor USING (true);
GRANT SELECT, INSERT, DELETE ON qflare.audit_key TO qflare_app;
GRANT SELECT ON qflare.audit_key TO qflare_auditor;

-- Append events in order inside the caller's transaction; those with p_keep false or null are left out.
-- An entry of type 3 is told by its leaf.  Where its p_data begins with 0x02, subject (32 bytes) and sealed key (61) stand
-- in front of what the row stores, and go into a row of their own.
CREATE OR REPLACE FUNCTION qflare.write_events(
    p_tenant uuid, p_keep boolean[], p_types text[], p_severities text[], p_devices text[], p_data bytea[],
    p_leaves bytea[], p_occurred_ms bigint[], OUT first_index bigint, OUT old_frontier bytea)
LANGUAGE plpgsql AS $$
DECLARE
    v_fields CONSTANT bytea := '\x51465831204c45414603';  -- what leaf data of entry type 3 begin with
    v_made    bigint    := 0;
    v_indexes bigint[]  := '{}';    -- of each event: its place among those that are kept, null if it is left out
    v_hashes  bytea[]   := '{}';    -- of each event
    v_leaves  bytea[]   := '{}';    -- of those that are kept
    v_kinds   smallint[] := '{}';   -- entry type of each event
    v_data    bytea[]   := p_data;  -- what each row stores
    v_keyed   bigint[]  := '{}';    -- of each key: its entry's place among those that are kept
    v_keys    bytea[]   := '{}';    -- subject and sealed key of each
BEGIN
    IF NOT true = ANY (p_keep) THEN
        RETURN;
    END IF;
    FOR v_place IN 1 .. cardinality(p_leaves) LOOP
        v_hashes[v_place] := sha256('\x00'::bytea || p_leaves[v_place]);
        v_indexes[v_place] := NULL;
        v_kinds[v_place] := CASE WHEN substring(p_leaves[v_place] FROM 1 FOR 10) = v_fields THEN 3 ELSE 2 END;
        IF p_keep[v_place] THEN
            v_indexes[v_place] := v_made;
            v_made := v_made + 1;
            v_leaves[v_made] := v_hashes[v_place];
            IF v_kinds[v_place] = 3 AND substring(p_data[v_place] FROM 1 FOR 1) = '\x02' THEN
                v_keyed := v_keyed || v_indexes[v_place];
                v_keys := v_keys || substring(p_data[v_place] FROM 2 FOR 93);
                v_data[v_place] := substring(p_data[v_place] FROM 95);
            END IF;
        END IF;
    END LOOP;
    SELECT h.size, h.frontier INTO STRICT first_index, old_frontier FROM qflare.log_head AS h FOR UPDATE;
    INSERT INTO qflare.audit_entry (log_index, tenant_id, entry_type, event_type, severity, device_id,
                                    leaf_hash, leaf_data, data, recorded_at)
    SELECT first_index + e.place, p_tenant, e.kind, e.event_type, e.severity, e.device_id, e.leaf_hash, e.leaf_data,
           e.data, timestamptz 'epoch' + e.occurred_ms * interval '1 millisecond'
      FROM unnest(v_indexes, v_kinds, p_types, p_severities, p_devices, v_data, v_hashes, p_leaves, p_occurred_ms)
           AS e (place, kind, event_type, severity, device_id, data, leaf_hash, leaf_data, occurred_ms)
     WHERE e.place IS NOT NULL;
    IF cardinality(v_keyed) > 0 THEN
        INSERT INTO qflare.audit_key (log_index, tenant_id, subject, sealed_key)
        SELECT first_index + k.place, p_tenant, substring(k.key FROM 1 FOR 32), substring(k.key FROM 33)
          FROM unnest(v_keyed, v_keys) AS k (place, key);
    END IF;
    PERFORM qflare.extend_log(first_index, old_frontier, v_leaves);
END
$$;

RESET ROLE;
