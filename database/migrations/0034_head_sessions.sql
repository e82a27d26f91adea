-- Before the sessions that one transaction makes stands their heading, an entry that says whose they are and when they
-- were made: their own leaves name neither (PROTOCOL H9), so that an edit of either column was not found.
--
-- Workers of version 33 go on: confirm_sessions writes the heading for them.

SET LOCAL ROLE qflare_owner;
ALTER TABLE qflare.log_head
    ADD COLUMN headed_from bigint,            -- index of the first heading: from it on every session stands under one
    ADD CONSTRAINT log_head_headed_from_range CHECK (headed_from >= 0);

-- extend_log: no session without a heading from the first one on.
CREATE OR REPLACE FUNCTION qflare.extend_log(p_size bigint, p_frontier bytea, p_leaves bytea[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    -- A confirmation of version 33 that was under way during the migration writes no heading: it comes again, and has one.
    IF EXISTS (SELECT FROM qflare.log_head AS h
                 JOIN qflare.audit_entry AS e ON e.log_index = p_size AND e.entry_type = 1
                WHERE h.headed_from IS NOT NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = 'sessions need a heading';
    END IF;
    PERFORM qflare.extend_tree(p_size, p_frontier,
                               (SELECT string_agg(l.hash, ''::bytea ORDER BY l.place)
                                  FROM unnest(p_leaves) WITH ORDINALITY AS l (hash, place)));
END
$$;

-- head_sessions: H8 for a batch of claims of one tenant; results as ClaimResult.
-- log_indexes[i] is null where no session stands. first_index and old_frontier are null if nothing was created: else the
-- heading stands at first_index, before its sessions, whose tenant and time no leaf of their own says (docs/audit.md).
CREATE FUNCTION qflare.head_sessions(
    p_tenant uuid, p_forms smallint[], p_ticket_buckets bigint[], p_sids uuid[], p_refs bytea[],
    p_key_versions bigint[], p_starts bigint[], p_lifetimes integer[], p_policies bigint[], p_th3_hashes bytea[],
    p_leaf_hashes bytea[], p_leaves bytea[], p_state_buckets bigint[], p_chain_keys bytea[], p_proves_kem boolean[],
    p_now timestamptz, p_live_bucket bigint, p_heading_leaf bytea, p_heading_data bytea,
    OUT results text[], OUT log_indexes bigint[], OUT first_index bigint, OUT old_frontier bytea)
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_live    bigint[];
    v_count   integer := cardinality(p_sids);
    v_claimed uuid[];       -- whose handshake row is new,
    v_routed  uuid[];       -- and their route too: these make sessions
    v_turns   bigint[];     -- of each claim: which of the new sessions it makes, from 0; null if none
    v_leaves  bytea[];      -- leaf hashes of the new ones
    v_crowded bytea[];
    v_ended   bigint[];
    v_excess  uuid[];
    v_heading CONSTANT bytea := sha256('\x00'::bytea || p_heading_leaf);
    v_from    bigint;       -- the first heading of the log
BEGIN
    v_live := qflare.hold_buckets(p_ticket_buckets || p_state_buckets);

    -- The device rows again: a revocation comes wholly before or wholly after (stronger than the FOR SHARE of H8,
    -- because a first ANSWER changes the key's state under the same lock; decision 0025).
    SELECT array_agg(CASE WHEN c.ticket_bucket < p_live_bucket OR NOT c.ticket_bucket = ANY (v_live)
                               OR NOT c.state_bucket = ANY (v_live)  THEN 'expired'
                          WHEN l.ref IS NULL                         THEN 'unknown-device'
                          WHEN l.state <> 'active'                   THEN 'device-state'
                          WHEN l.key_version <> c.key_version        THEN 'key-version'
                     END ORDER BY c.place)
      INTO results
      FROM unnest(p_refs, p_key_versions, p_ticket_buckets, p_state_buckets) WITH ORDINALITY
           AS c (ref, key_version, ticket_bucket, state_bucket, place)
      LEFT JOIN (SELECT d.ref, d.state, d.key_version
                   FROM qflare.device AS d
                  WHERE d.tenant_id = p_tenant AND d.ref = ANY (p_refs)
                  ORDER BY d.ref
                    FOR NO KEY UPDATE) AS l ON l.ref = c.ref;

    IF array_position(results, NULL) IS NULL THEN
        log_indexes := array_fill(NULL::bigint, ARRAY[v_count]);
        RETURN;
    END IF;

    -- The handshake row: who inserts it makes the session, once for all workers and restarts.
    WITH claimed AS (
        INSERT INTO qflare.handshake (tenant_id, ticket_bucket, sid, slot, th3_hash)
        SELECT p_tenant, c.ticket_bucket, c.sid, c.ticket_bucket % 8, c.th3_hash
          FROM unnest(results, p_ticket_buckets, p_sids, p_th3_hashes) AS c (result, ticket_bucket, sid, th3_hash)
         WHERE c.result IS NULL
        ON CONFLICT DO NOTHING
        RETURNING sid)
    SELECT array_agg(k.sid) INTO v_claimed FROM claimed AS k;

    -- And the route, which makes the session's id the only one of all tenants.
    WITH routed AS (
        INSERT INTO qflare.session_route (sid, slot, tenant_id)
        SELECT DISTINCT ON (c.sid) c.sid, (c.start + c.lifetime - 1) / 192 % 4, p_tenant
          FROM unnest(results, p_sids, p_starts, p_lifetimes) WITH ORDINALITY AS c (result, sid, start, lifetime, place)
         WHERE c.result IS NULL AND c.sid = ANY (v_claimed)
         ORDER BY c.sid, c.place
        ON CONFLICT DO NOTHING
        RETURNING sid)
    SELECT array_agg(r.sid) INTO v_routed FROM routed AS r;

    IF v_routed IS NULL THEN
        log_indexes := array_fill(NULL::bigint, ARRAY[v_count]);
    ELSE
        IF cardinality(v_routed) = v_count THEN             -- what nearly always is: all of them, each once
            FOR v_place IN 1 .. v_count LOOP
                v_turns[v_place] := v_place - 1;
            END LOOP;
            v_leaves := p_leaf_hashes;
        ELSE
            WITH made AS (
                SELECT n.place, row_number() OVER (ORDER BY n.place) - 1 AS turn
                  FROM (SELECT DISTINCT ON (c.sid) c.place
                          FROM unnest(results, p_sids) WITH ORDINALITY AS c (result, sid, place)
                         WHERE c.result IS NULL AND c.sid = ANY (v_routed)
                         ORDER BY c.sid, c.place) AS n)
            SELECT array_agg(m.turn ORDER BY c.place),
                   array_agg(c.leaf_hash ORDER BY c.place) FILTER (WHERE m.turn IS NOT NULL)
              INTO v_turns, v_leaves
              FROM unnest(p_leaf_hashes) WITH ORDINALITY AS c (leaf_hash, place)
              LEFT JOIN made AS m ON m.place = c.place;
        END IF;

        INSERT INTO qflare.session_state (bucket, sid, tenant_id, slot, epoch, sealed_chain_key)
        SELECT c.bucket, c.sid, p_tenant, c.bucket % 8, 0, c.chain_key
          FROM unnest(v_turns, p_state_buckets, p_sids, p_chain_keys) AS c (turn, bucket, sid, chain_key)
         WHERE c.turn IS NOT NULL;

        -- Of a device's keys at most the current one is pre-active: rotation ends the earlier ones.
        IF true = ANY (p_proves_kem) THEN
            UPDATE qflare.device_key AS k
               SET state = 'active'
             WHERE k.tenant_id = p_tenant AND k.kind = 'kem' AND k.state = 'pre-active'
               AND k.ref = ANY (ARRAY(SELECT c.ref FROM unnest(v_turns, p_proves_kem, p_refs) AS c (turn, proves, ref)
                                       WHERE c.turn IS NOT NULL AND c.proves));
        END IF;

        -- From here on the log is locked: as little as possible, and no other lock but the counts'.
        SELECT h.size, h.frontier, h.headed_from INTO STRICT first_index, old_frontier, v_from
          FROM qflare.log_head AS h FOR UPDATE;

        INSERT INTO qflare.audit_entry (log_index, tenant_id, entry_type, event_type, severity, leaf_hash,
                                        leaf_data, data, recorded_at)
        SELECT first_index, p_tenant, get_byte(p_heading_leaf, 9), 'session_heading', 'info', v_heading, p_heading_leaf,
               p_heading_data, p_now
         UNION ALL
        SELECT first_index + 1 + c.turn, p_tenant, 1, 'key_exchange', 'info', c.leaf_hash, c.leaf_data, '{}', p_now
          FROM unnest(v_turns, p_leaf_hashes, p_leaves) AS c (turn, leaf_hash, leaf_data)
         WHERE c.turn IS NOT NULL;
        PERFORM qflare.extend_log(first_index, old_frontier, v_heading || v_leaves);
        IF v_from IS NULL THEN
            UPDATE qflare.log_head SET headed_from = first_index;
        END IF;

        INSERT INTO qflare.session (tenant_id, sid, slot, ref, key_version, form, start_bucket, last_bucket,
                                    policy, state, log_index, created_at)
        SELECT p_tenant, c.sid, (c.start + c.lifetime - 1) / 192 % 4, c.ref, c.key_version, c.form, c.start,
               c.start + c.lifetime - 1, c.policy, 'live', first_index + 1 + c.turn, p_now
          FROM unnest(v_turns, p_sids, p_refs, p_key_versions, p_forms, p_starts, p_lifetimes, p_policies)
               AS c (turn, sid, ref, key_version, form, start, lifetime, policy)
         WHERE c.turn IS NOT NULL;
        INSERT INTO qflare.session_count AS n (tenant_id, last_bucket, live, total)
        SELECT p_tenant, c.start + c.lifetime - 1, count(*), count(*)
          FROM unnest(v_turns, p_starts, p_lifetimes) AS c (turn, start, lifetime)
         WHERE c.turn IS NOT NULL
         GROUP BY c.start + c.lifetime - 1 ORDER BY c.start + c.lifetime - 1
        ON CONFLICT (tenant_id, last_bucket)
        DO UPDATE SET live = n.live + excluded.live, total = n.total + excluded.total;

        -- At most four live sessions a device: the new ones stay, those that never carried a record go first,
        -- then the oldest.
        v_crowded := ARRAY(SELECT s.ref::bytea
                             FROM qflare.session AS s
                            WHERE s.tenant_id = p_tenant
                              AND s.ref = ANY (p_refs)
                              AND s.state = 'live'
                              AND s.last_bucket >= p_live_bucket
                            GROUP BY s.ref
                           HAVING count(*) > 4);
        IF v_crowded <> '{}' THEN
            WITH ranked AS (
                SELECT s.sid,
                       row_number() OVER (PARTITION BY s.ref
                                          ORDER BY s.log_index >= head_sessions.first_index DESC,
                                                   s.carried_at IS NOT NULL DESC, s.log_index DESC) AS place
                  FROM qflare.session AS s
                 WHERE s.tenant_id = p_tenant
                   AND s.ref = ANY (v_crowded)
                   AND s.state = 'live'
                   AND s.last_bucket >= p_live_bucket)
            SELECT array_agg(r.sid) INTO v_excess FROM ranked AS r WHERE r.place > 4;
            WITH ended AS (
                UPDATE qflare.session AS s
                   SET state = 'superseded', ended_at = p_now
                 WHERE s.tenant_id = p_tenant AND s.sid = ANY (v_excess)
                RETURNING s.last_bucket)
            SELECT array_agg(e.last_bucket) INTO v_ended FROM ended AS e;
            PERFORM qflare.count_ended(p_tenant, v_ended);
        END IF;

        FOR v_place IN 1 .. v_count LOOP
            log_indexes[v_place] := first_index + 1 + v_turns[v_place];
            IF v_turns[v_place] IS NOT NULL THEN
                results[v_place] := 'created';
            END IF;
        END LOOP;
    END IF;

    -- What is undecided now was there before: the same M4 is due for the same handshake of a live session.
    IF array_position(results, NULL) IS NOT NULL THEN
        SELECT array_agg(coalesce(c.result, CASE WHEN s.sid IS NULL THEN 'conflict' ELSE 'repeated' END)
                         ORDER BY c.place),
               array_agg(coalesce(c.log_index, s.log_index) ORDER BY c.place)
          INTO results, log_indexes
          FROM unnest(results, log_indexes, p_ticket_buckets, p_sids, p_refs, p_th3_hashes) WITH ORDINALITY
               AS c (result, log_index, ticket_bucket, sid, ref, th3_hash, place)
          LEFT JOIN LATERAL (
               SELECT e.sid FROM qflare.handshake AS e
                WHERE c.result IS NULL AND e.slot = c.ticket_bucket % 8 AND e.ticket_bucket = c.ticket_bucket
                  AND e.sid = c.sid AND e.tenant_id = p_tenant AND e.th3_hash = c.th3_hash LIMIT 1) AS h ON true
          LEFT JOIN LATERAL (
               SELECT e.sid, e.log_index FROM qflare.session AS e
                WHERE e.sid = h.sid AND e.tenant_id = p_tenant AND e.ref = c.ref AND e.state = 'live'
                  AND e.last_bucket >= p_live_bucket LIMIT 1) AS s ON true;
    END IF;
END
$$;

-- confirm_sessions: head_sessions for workers of version 33, which write no heading: here it is made for them, an event of
-- type 2, and they are told of the log as if it had stood before their batch.
CREATE OR REPLACE FUNCTION qflare.confirm_sessions(
    p_tenant uuid, p_forms smallint[], p_ticket_buckets bigint[], p_sids uuid[], p_refs bytea[],
    p_key_versions bigint[], p_starts bigint[], p_lifetimes integer[], p_policies bigint[], p_th3_hashes bytea[],
    p_leaf_hashes bytea[], p_leaves bytea[], p_state_buckets bigint[], p_chain_keys bytea[], p_proves_kem boolean[],
    p_now timestamptz, p_live_bucket bigint,
    OUT results text[], OUT log_indexes bigint[], OUT first_index bigint, OUT old_frontier bytea)
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_leaf    CONSTANT bytea   := '\x51465831204c45414602'::bytea || uuid_send(gen_random_uuid()) || uuid_send(p_tenant)
                                  || int8send(floor(extract(epoch FROM p_now) * 1000)::bigint)
                                  || '\x0f'::bytea || 'session_heading'::bytea || '\x04'::bytea || 'info'::bytea
                                  || '\x00'::bytea || int4send(2) || '{}'::bytea;
    v_node    bytea            := sha256('\x00'::bytea || v_leaf);
    v_size    bigint;
BEGIN
    SELECT h.results, h.log_indexes, h.first_index, h.old_frontier
      INTO results, log_indexes, first_index, old_frontier
      FROM qflare.head_sessions(p_tenant, p_forms, p_ticket_buckets, p_sids, p_refs, p_key_versions, p_starts,
                                p_lifetimes, p_policies, p_th3_hashes, p_leaf_hashes, p_leaves, p_state_buckets,
                                p_chain_keys, p_proves_kem, p_now, p_live_bucket, v_leaf, '{}') AS h;
    IF first_index IS NULL THEN
        RETURN;
    END IF;
    v_size := first_index;
    WHILE v_size % 2 = 1 LOOP
        v_node := sha256('\x01'::bytea || substring(old_frontier FROM octet_length(old_frontier) - 31) || v_node);
        old_frontier := substring(old_frontier FROM 1 FOR octet_length(old_frontier) - 32);
        v_size := v_size / 2;
    END LOOP;
    old_frontier := old_frontier || v_node;
    first_index := first_index + 1;
END
$$;

RESET ROLE;
REVOKE ALL ON FUNCTION qflare.head_sessions(
    uuid, smallint[], bigint[], uuid[], bytea[], bigint[], bigint[], integer[], bigint[], bytea[], bytea[], bytea[],
    bigint[], bytea[], boolean[], timestamptz, bigint, bytea, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qflare.head_sessions(
    uuid, smallint[], bigint[], uuid[], bytea[], bigint[], bigint[], integer[], bigint[], bytea[], bytea[], bytea[],
    bigint[], bytea[], boolean[], timestamptz, bigint, bytea, bytea) TO qflare_app;
