-- The nodes right above the leaves keep both leaf hashes: where a row was exchanged or taken out together with its hash, a
-- check can tell which of the two it was.
--
-- Workers of version 34 go on: what they call writes the pairs for them. Nodes of before have none.
-- The look at every node's column reads the tree once, a few seconds for ten million entries.

SET LOCAL ROLE qflare_owner;
ALTER TABLE qflare.log_node
    ADD COLUMN leaf_pair bytea,              -- of level 1: both leaf hashes below, so that a check can tell which of two is another
    ADD CONSTRAINT log_node_leaf_pair_size CHECK (leaf_pair IS NULL OR (level = 1 AND octet_length(leaf_pair) = 64));

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
    v_leaves   bytea;                                   -- of the new nodes of level 1, which come first
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
        v_leaves := coalesce(v_leaves, v_nodes);
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
        INSERT INTO qflare.log_node (level, node_index, hash, leaf_pair)
        SELECT v_levels[n.place], v_indexes[n.place], substring(v_made FROM 32 * n.place - 31 FOR 32),
               CASE WHEN v_levels[n.place] = 1 THEN substring(v_leaves FROM 64 * n.place - 63 FOR 64) END
          FROM generate_series(1, cardinality(v_levels)) AS n (place);
    END IF;
    UPDATE qflare.log_head
       SET size     = p_size + octet_length(p_leaves) / 32,
           frontier = substring(p_frontier FROM 1 FOR v_unread) || v_frontier;
END
$$;

RESET ROLE;
