-- Entries are appended in sets, without a loop over them, and with the leaf hashes that their worker has made already.
--
-- Safe while the version before still runs: it calls append_events, which stays, and extend_log as before.

SET LOCAL ROLE qflare_owner;

-- Add leaves to the tree: the new complete subtrees, and the new head (RFC 9162, section 2.1).
-- p_size and p_frontier are the locked head's, p_leaves the new leaf hashes behind each other in order.
CREATE OR REPLACE FUNCTION qflare.extend_tree(p_size bigint, p_frontier bytea, p_leaves bytea) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_nodes    bytea      := p_leaves;                  -- of this level, behind each other: a pair is 64 bytes
    v_count    integer    := octet_length(p_leaves) / 32;
    v_first    bigint     := p_size;                    -- index of the first one
    v_unread   integer    := octet_length(p_frontier);  -- frontier nodes of lower levels are taken already
    v_frontier bytea      := '';
    v_level    smallint   := 0;
    v_pairs    integer;
    v_made     bytea      := '';                        -- new nodes of all levels above the leaves
    v_levels   smallint[] := '{}';
    v_indexes  bigint[]   := '{}';
BEGIN
    LOOP
        IF v_first % 2 = 1 THEN                         -- the first one completes a pair that the frontier begins
            v_nodes := substring(p_frontier FROM v_unread - 31 FOR 32) || v_nodes;
            v_unread := v_unread - 32;
            v_count := v_count + 1;
        END IF;
        v_pairs := v_count / 2;
        IF v_count % 2 = 1 THEN                         -- no sibling yet: the last one stays in the frontier
            v_frontier := substring(v_nodes FROM 32 * v_count - 31) || v_frontier;
        END IF;
        EXIT WHEN v_pairs = 0;
        v_level := v_level + 1::smallint;
        v_first := v_first / 2;
        v_nodes := (SELECT string_agg(sha256('\x01'::bytea || substring(v_nodes FROM 64 * n.pair + 1 FOR 64)), ''::bytea
                                      ORDER BY n.pair)
                      FROM generate_series(0, v_pairs - 1) AS n (pair));
        v_count := v_pairs;
        v_made := v_made || v_nodes;
        v_levels := v_levels || array_fill(v_level, ARRAY[v_pairs]);
        v_indexes := v_indexes || ARRAY(SELECT generate_series(v_first, v_first + v_pairs - 1));
    END LOOP;
    IF v_made <> '' THEN
        INSERT INTO qflare.log_node (level, node_index, hash)
        SELECT v_levels[n.place], v_indexes[n.place], substring(v_made FROM 32 * n.place - 31 FOR 32)
          FROM generate_series(1, cardinality(v_levels)) AS n (place);
    END IF;
    UPDATE qflare.log_head
       SET size     = p_size + octet_length(p_leaves) / 32,
           frontier = substring(p_frontier FROM 1 FOR v_unread) || v_frontier;
END
$$;

-- The same for leaf hashes in an array.
CREATE OR REPLACE FUNCTION qflare.extend_log(p_size bigint, p_frontier bytea, p_leaves bytea[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM qflare.extend_tree(p_size, p_frontier,
                               (SELECT string_agg(l.hash, ''::bytea ORDER BY l.place)
                                  FROM unnest(p_leaves) WITH ORDINALITY AS l (hash, place)));
END
$$;

-- append_entries: entries of one tenant, nothing else; many at a time as strings behind each other, which cost a driver and
-- an array less than as many values.  Entry i is what stands between edges i and i + 1 (from 0 on) of p_data and of
-- p_leaves; p_hashes are the leaf hashes, which the rows' constraint holds against the leaves.
-- Keys of sealed entries: p_keyed are the places (from 0 on) of theirs, p_keys subject (32 bytes) and sealed key (61) of each.
CREATE OR REPLACE FUNCTION qflare.append_entries(
    p_tenant uuid, p_types text[], p_severities text[], p_devices text[], p_data bytea, p_data_edges integer[],
    p_leaves bytea, p_leaf_edges integer[], p_hashes bytea, p_occurred_ms bigint[], p_keyed bigint[], p_keys bytea,
    OUT first_index bigint, OUT old_frontier bytea)
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_fields  CONSTANT bytea   := '\x51465831204c45414603';  -- what leaf data of entry type 3 begin with
    v_count   CONSTANT integer := octet_length(p_hashes) / 32;
BEGIN
    -- A leaf more in the tree than in the table, or a byte of no entry, must not be.
    IF octet_length(p_hashes) <> 32 * v_count OR cardinality(p_types) <> v_count OR cardinality(p_severities) <> v_count
       OR cardinality(p_devices) <> v_count OR cardinality(p_occurred_ms) <> v_count
       OR cardinality(p_data_edges) <> v_count + 1 OR p_data_edges[v_count + 1] <> octet_length(p_data)
       OR cardinality(p_leaf_edges) <> v_count + 1 OR p_leaf_edges[v_count + 1] <> octet_length(p_leaves)
       OR octet_length(p_keys) <> 93 * cardinality(p_keyed) THEN
        RAISE EXCEPTION 'the columns of % entries are of different lengths', v_count USING ERRCODE = 'data_exception';
    END IF;
    SELECT h.size, h.frontier INTO STRICT first_index, old_frontier FROM qflare.log_head AS h FOR UPDATE;
    INSERT INTO qflare.audit_entry (log_index, tenant_id, entry_type, event_type, severity, device_id,
                                    leaf_hash, leaf_data, data, recorded_at)
    SELECT first_index + e.i - 1, p_tenant,
           CASE WHEN substring(p_leaves FROM p_leaf_edges[e.i] + 1 FOR 10) = v_fields THEN 3 ELSE 2 END,
           p_types[e.i], p_severities[e.i], p_devices[e.i],
           substring(p_hashes FROM 32 * e.i - 31 FOR 32),
           substring(p_leaves FROM p_leaf_edges[e.i] + 1 FOR p_leaf_edges[e.i + 1] - p_leaf_edges[e.i]),
           substring(p_data FROM p_data_edges[e.i] + 1 FOR p_data_edges[e.i + 1] - p_data_edges[e.i]),
           timestamptz 'epoch' + p_occurred_ms[e.i] * interval '1 millisecond'
      FROM generate_series(1, v_count) AS e (i);
    IF cardinality(p_keyed) > 0 THEN
        INSERT INTO qflare.audit_key (log_index, tenant_id, subject, sealed_key)
        SELECT first_index + p_keyed[k.i], p_tenant, substring(p_keys FROM 93 * k.i - 92 FOR 32),
               substring(p_keys FROM 93 * k.i - 60 FOR 61)
          FROM generate_series(1, cardinality(p_keyed)) AS k (i);
    END IF;
    PERFORM qflare.extend_tree(first_index, old_frontier, p_hashes);
END
$$;

RESET ROLE;
REVOKE ALL ON FUNCTION qflare.extend_tree(bigint, bytea, bytea) FROM PUBLIC;
REVOKE ALL ON FUNCTION qflare.append_entries(
    uuid, text[], text[], text[], bytea, integer[], bytea, integer[], bytea, bigint[], bigint[], bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qflare.extend_tree(bigint, bytea, bytea) TO qflare_app;
GRANT EXECUTE ON FUNCTION qflare.append_entries(
    uuid, text[], text[], text[], bytea, integer[], bytea, integer[], bytea, bigint[], bigint[], bytea) TO qflare_app;
