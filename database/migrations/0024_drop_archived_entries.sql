-- Entries of the log that were archived may be dropped, whole and from the beginning on; their leaf hashes stay.
-- Workers of version 23 go on: what they call returns what it did. Drop entries once every worker is upgraded.

SET LOCAL ROLE qflare_owner;

-- Leaf hashes of entries that were archived and dropped; read by proofs beside those of audit_entry.
CREATE TABLE qflare.archived_leaf (
    log_index bigint NOT NULL,
    leaf_hash bytea  NOT NULL,
    CONSTRAINT archived_leaf_pkey PRIMARY KEY (log_index),
    CONSTRAINT archived_leaf_log_index_range CHECK (log_index >= 0),
    CONSTRAINT archived_leaf_leaf_hash_size CHECK (octet_length(leaf_hash) = 32)
);

CREATE POLICY audit_entry_archived ON qflare.audit_entry FOR DELETE TO qflare_maintenance USING (true);
GRANT SELECT, DELETE ON qflare.audit_entry TO qflare_maintenance;
GRANT SELECT, INSERT ON qflare.archived_leaf TO qflare_maintenance;
GRANT SELECT ON qflare.checkpoint TO qflare_maintenance;
GRANT SELECT ON qflare.archived_leaf TO qflare_auditor;
GRANT CREATE ON SCHEMA qflare TO qflare_maintenance;
SET LOCAL ROLE qflare_maintenance;

-- find_leaves: leaf hashes by index for proofs, which pass over every tenant's leaves; hashes only.
CREATE OR REPLACE FUNCTION qflare.find_leaves(p_indexes bigint[]) RETURNS TABLE (log_index bigint, leaf_hash bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT e.log_index::bigint, e.leaf_hash::bytea FROM qflare.audit_entry AS e WHERE e.log_index = ANY (p_indexes)
     UNION ALL
    SELECT l.log_index, l.leaf_hash FROM qflare.archived_leaf AS l WHERE l.log_index = ANY (p_indexes);
END
$$;

-- drop_archived_entries: up to p_limit of the oldest entries before p_before, whose archive the entry p_entry tells of;
-- their leaf hashes stay.  For who may change the schema alone, whoever may call it: no worker drops an entry.
CREATE OR REPLACE FUNCTION qflare.drop_archived_entries(p_before bigint, p_entry bigint, p_limit integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_told    CONSTANT bytea := convert_to(format('"size":%s,"what":"log entries archived"}', p_before), 'UTF8');
    v_dropped bigint;
BEGIN
    IF NOT pg_has_role(session_user, 'qflare_owner', 'MEMBER') THEN
        RAISE EXCEPTION 'entries are dropped by who may change the schema' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT EXISTS (SELECT FROM qflare.checkpoint AS c WHERE c.size = p_before)
       OR NOT EXISTS (SELECT FROM qflare.audit_entry AS e
                       WHERE e.log_index = p_entry AND p_entry >= p_before AND e.entry_type = 3
                         AND e.tenant_id = '00000000-0000-0000-0000-000000000000'
                         AND e.event_type = 'operator_action'
                         AND substring(e.data FROM octet_length(e.data) - octet_length(v_told) + 1) = v_told) THEN
        RAISE EXCEPTION 'no entry of the log tells that the entries before % were archived', p_before
            USING ERRCODE = 'check_violation', CONSTRAINT = 'audit_entry_archived', TABLE = 'audit_entry';
    END IF;
    -- The oldest first: wherever this ends, what is left is the end of the log.
    WITH gone AS (
        DELETE FROM qflare.audit_entry AS e
         WHERE e.log_index IN (SELECT o.log_index FROM qflare.audit_entry AS o
                                WHERE o.log_index < p_before ORDER BY o.log_index LIMIT p_limit)
        RETURNING e.log_index, e.leaf_hash)
    INSERT INTO qflare.archived_leaf (log_index, leaf_hash) SELECT g.log_index, g.leaf_hash FROM gone AS g;
    GET DIAGNOSTICS v_dropped = ROW_COUNT;
    RETURN v_dropped;
END
$$;

SET LOCAL ROLE qflare_owner;
REVOKE CREATE ON SCHEMA qflare FROM qflare_maintenance;

-- Who may call what ----------------------------------------------------------------------------------------------------
RESET ROLE;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA qflare FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA qflare TO qflare_app;
