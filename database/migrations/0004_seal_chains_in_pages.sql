-- The turn seals chain keys in pages, and its progress stands in the database.
-- Workers of version 3 go on, but do not read pages: until the last one has ended, the new ones are started with
-- turn_page 1, which writes the rows that both read.

SET LOCAL ROLE qflare_owner;

-- Chain keys of many sessions sealed together under their bucket's KEK (R8); written by the turn into a bucket, read by
-- the next one and by a session's first touch in a worker. Pages of one tenant and bucket do not overlap.
CREATE TABLE qflare.session_page (
    bucket            bigint   NOT NULL,
    tenant_id         uuid     NOT NULL,
    first_sid         uuid     NOT NULL,
    slot              smallint NOT NULL,
    last_sid          uuid     NOT NULL,
    sids              uuid[]   NOT NULL,
    epochs            bigint[] NOT NULL,
    sealed_chain_keys bytea    NOT NULL,
    CONSTRAINT session_page_pkey PRIMARY KEY (bucket, tenant_id, first_sid, slot),
    CONSTRAINT session_page_slot_of_bucket CHECK (slot = bucket % 8),
    CONSTRAINT session_page_ends CHECK (first_sid = sids[1] AND last_sid = sids[cardinality(sids)]
                                        AND first_sid <= last_sid),
    CONSTRAINT session_page_size CHECK (cardinality(sids) BETWEEN 1 AND 8192 AND cardinality(epochs) = cardinality(sids)
                                        AND octet_length(sealed_chain_keys) = 29 + 64 * cardinality(sids))
) PARTITION BY LIST (slot);

-- A page is ciphertext and random ids: neither compresses.
ALTER TABLE qflare.session_page ALTER COLUMN sids              SET STORAGE EXTERNAL;
ALTER TABLE qflare.session_page ALTER COLUMN sealed_chain_keys SET STORAGE EXTERNAL;

-- How far the turn into a bucket is: ranges of session ids done, and looked at again late; read by every worker.
CREATE TABLE qflare.bucket_turn (
    bucket     bigint      NOT NULL,
    ranges     integer     NOT NULL,
    done       integer     NOT NULL DEFAULT 0,
    settled    integer     NOT NULL DEFAULT 0,
    carried    bigint      NOT NULL DEFAULT 0,
    begun_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at   timestamptz,
    settled_at timestamptz,
    CONSTRAINT bucket_turn_pkey PRIMARY KEY (bucket),
    CONSTRAINT bucket_turn_ranges_positive CHECK (ranges >= 1),
    CONSTRAINT bucket_turn_done_range CHECK (done BETWEEN 0 AND ranges),
    CONSTRAINT bucket_turn_settled_range CHECK (settled BETWEEN 0 AND done),
    CONSTRAINT bucket_turn_carried_range CHECK (carried >= 0),
    CONSTRAINT bucket_turn_end_of_ranges CHECK ((ended_at IS NOT NULL) = (done = ranges)),
    CONSTRAINT bucket_turn_end_of_late CHECK ((settled_at IS NOT NULL) = (settled = ranges))
);

DO $$
DECLARE
    v_leaf text;
BEGIN
    FOR v_slot IN 0 .. 7 LOOP
        v_leaf := format('session_page_slot_%s', v_slot);
        EXECUTE format('CREATE TABLE qflare.%I PARTITION OF qflare.session_page FOR VALUES IN (%s)', v_leaf, v_slot);
        EXECUTE format('ALTER TABLE qflare.%I ENABLE ROW LEVEL SECURITY', v_leaf);
        EXECUTE format('ALTER TABLE qflare.%I FORCE ROW LEVEL SECURITY', v_leaf);
        EXECUTE format('GRANT SELECT ON qflare.%I TO qflare_auditor', v_leaf);
    END LOOP;
END
$$;

ALTER TABLE qflare.session_page ENABLE ROW LEVEL SECURITY;
ALTER TABLE qflare.session_page FORCE ROW LEVEL SECURITY;
CREATE POLICY session_page_of_tenant ON qflare.session_page TO qflare_app
    USING (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid));
CREATE POLICY session_page_for_auditor ON qflare.session_page FOR SELECT TO qflare_auditor USING (true);
CREATE POLICY session_page_for_maintenance ON qflare.session_page FOR SELECT TO qflare_maintenance USING (true);
CREATE POLICY session_page_turned ON qflare.session_page FOR INSERT TO qflare_maintenance WITH CHECK (true);

GRANT SELECT ON qflare.session_page, qflare.bucket_turn TO qflare_auditor;
GRANT SELECT, DELETE ON qflare.bucket_turn TO qflare_app;
GRANT SELECT ON qflare.session_page TO qflare_app;
GRANT SELECT, INSERT ON qflare.session_page TO qflare_maintenance;
GRANT SELECT, INSERT, UPDATE ON qflare.bucket_turn TO qflare_maintenance;

-- find_pages: the pages that hold chain keys of sessions, for a range of buckets.
CREATE OR REPLACE FUNCTION qflare.find_pages(p_tenant uuid, p_sids uuid[], p_first bigint, p_last bigint)
RETURNS TABLE (bucket bigint, sids uuid[], epochs bigint[], sealed_chain_keys bytea)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
BEGIN
    -- Pages of a tenant do not overlap, so the one that begins at or below an id is the only one that may hold it.
    -- They are found by their keys first: what is on them is read once, however many of the sessions are there.
    RETURN QUERY
    SELECT p.bucket, p.sids, p.epochs, p.sealed_chain_keys
      FROM (SELECT DISTINCT k.bucket, f.first_sid
              FROM qflare.bucket_key AS k
             CROSS JOIN unnest(p_sids) AS w (sid)
             CROSS JOIN LATERAL (
                   SELECT e.first_sid, e.last_sid FROM qflare.session_page AS e
                    WHERE e.slot = k.bucket % 8 AND e.bucket = k.bucket AND e.tenant_id = p_tenant
                      AND e.first_sid <= w.sid
                    ORDER BY e.first_sid DESC LIMIT 1) AS f
             WHERE k.bucket BETWEEN p_first AND p_last AND f.last_sid >= w.sid) AS d
     CROSS JOIN LATERAL (
           SELECT e.bucket, e.sids, e.epochs, e.sealed_chain_keys FROM qflare.session_page AS e
            WHERE e.slot = d.bucket % 8 AND e.bucket = d.bucket AND e.tenant_id = p_tenant
              AND e.first_sid = d.first_sid LIMIT 1) AS p;
END
$$;

GRANT CREATE ON SCHEMA qflare TO qflare_maintenance;
SET LOCAL ROLE qflare_maintenance;

-- lead_turn: be the leader of one step of the turn into p_bucket until the transaction ends (R8); stage as TurnStage.
-- done of ranges are behind it, of the first sweep or of the late one.
CREATE OR REPLACE FUNCTION qflare.lead_turn(
    p_bucket bigint, p_is_late boolean, p_range_size bigint, OUT stage text, OUT done integer, OUT ranges integer)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_settled integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1363561218, (p_bucket % 2147483647)::integer) THEN
        stage := 'followed';
        RETURN;
    END IF;
    IF cardinality(qflare.hold_buckets(ARRAY[p_bucket - 1, p_bucket])) < 2
       OR EXISTS (SELECT FROM qflare.bucket_turn AS t WHERE t.bucket > p_bucket) THEN
        stage := 'over';
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM qflare.bucket_turn AS t WHERE t.bucket = p_bucket) THEN
        -- The row ends the turn before this one, so its leader must have committed what it was about to write.
        IF NOT pg_try_advisory_xact_lock(1363561218, ((p_bucket - 1) % 2147483647)::integer) THEN
            stage := 'followed';
            RETURN;
        END IF;
        INSERT INTO qflare.bucket_turn (bucket, ranges)
        SELECT p_bucket, greatest(1, ceil(coalesce(sum(c.live), 0) / p_range_size::numeric))
          FROM qflare.session_count AS c WHERE c.last_bucket >= p_bucket;
    END IF;
    SELECT t.done, t.settled, t.ranges INTO STRICT done, v_settled, ranges
      FROM qflare.bucket_turn AS t WHERE t.bucket = p_bucket;
    IF done < ranges AND p_is_late THEN
        stage := 'early';
    ELSE
        done := CASE WHEN p_is_late THEN v_settled ELSE done END;
        stage := CASE WHEN done < ranges THEN 'led' ELSE 'done' END;
    END IF;
END
$$;

-- list_turn_chains: live sessions' single chain keys of the bucket before p_bucket, inside a range of ids; of their
-- present epoch (R7).
CREATE OR REPLACE FUNCTION qflare.list_turn_chains(p_bucket bigint, p_first uuid, p_last uuid)
RETURNS TABLE (tenant_id uuid, sid uuid, epoch bigint, sealed_chain_key bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT c.tenant_id, c.sid, c.epoch::bigint, c.sealed_chain_key::bytea
      FROM qflare.session_state AS c
     CROSS JOIN LATERAL (
           SELECT e.state, e.epoch, e.last_bucket FROM qflare.session AS e
            WHERE e.sid = c.sid AND e.tenant_id = c.tenant_id LIMIT 1) AS s
     WHERE c.slot = (p_bucket - 1) % 8 AND c.bucket = p_bucket - 1
       AND c.sid BETWEEN p_first AND p_last
       AND s.state = 'live' AND s.epoch = c.epoch AND s.last_bucket >= p_bucket;
END
$$;

-- list_turn_pages: pages of the bucket before p_bucket that reach into a range of ids; places, from 1, are those of
-- the live sessions inside it.
CREATE OR REPLACE FUNCTION qflare.list_turn_pages(p_bucket bigint, p_first uuid, p_last uuid)
RETURNS TABLE (tenant_id uuid, sids uuid[], epochs bigint[], sealed_chain_keys bytea, places integer[])
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT p.tenant_id, p.sids, p.epochs, p.sealed_chain_keys,
           ARRAY(SELECT w.place::integer
                   FROM unnest(p.sids, p.epochs) WITH ORDINALITY AS w (sid, epoch, place)
                  CROSS JOIN LATERAL (
                        SELECT e.state, e.epoch, e.last_bucket FROM qflare.session AS e
                         WHERE e.sid = w.sid AND e.tenant_id = p.tenant_id LIMIT 1) AS s
                  WHERE w.sid BETWEEN p_first AND p_last
                    AND s.state = 'live' AND s.epoch = w.epoch AND s.last_bucket >= p_bucket)
      FROM qflare.session_page AS p
     WHERE p.slot = (p_bucket - 1) % 8 AND p.bucket = p_bucket - 1
       AND p.first_sid <= p_last AND p.last_sid >= p_first;
END
$$;

-- list_turned: which chain keys of p_bucket stand already as rows of their own, inside a range of ids.
CREATE OR REPLACE FUNCTION qflare.list_turned(p_bucket bigint, p_first uuid, p_last uuid)
RETURNS TABLE (tenant_id uuid, sid uuid, epoch bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT c.tenant_id, c.sid, c.epoch::bigint
      FROM qflare.session_state AS c
     WHERE c.slot = p_bucket % 8 AND c.bucket = p_bucket AND c.sid BETWEEN p_first AND p_last;
END
$$;

-- list_late_chains: as list_turn_chains, but only what p_bucket does not hold, neither as a row nor on a page.
-- Hashed, not looked up one by one: there may be as many as there are sessions.
CREATE OR REPLACE FUNCTION qflare.list_late_chains(p_bucket bigint, p_first uuid, p_last uuid)
RETURNS TABLE (tenant_id uuid, sid uuid, epoch bigint, sealed_chain_key bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_nestloop = off AS $$
BEGIN
    RETURN QUERY
    WITH turned AS MATERIALIZED (
        SELECT n.tenant_id, n.sid, n.epoch::bigint AS epoch
          FROM qflare.session_state AS n
         WHERE n.slot = p_bucket % 8 AND n.bucket = p_bucket AND n.sid BETWEEN p_first AND p_last
        UNION ALL
        SELECT p.tenant_id, w.sid, w.epoch
          FROM qflare.session_page AS p
         CROSS JOIN LATERAL unnest(p.sids, p.epochs) AS w (sid, epoch)
         WHERE p.slot = p_bucket % 8 AND p.bucket = p_bucket
           AND p.first_sid <= p_last AND p.last_sid >= p_first)
    SELECT c.tenant_id, c.sid, c.epoch::bigint, c.sealed_chain_key::bytea
      FROM qflare.session_state AS c
      LEFT JOIN turned AS t ON t.sid = c.sid AND t.tenant_id = c.tenant_id AND t.epoch = c.epoch
     CROSS JOIN LATERAL (
           SELECT e.state, e.epoch, e.last_bucket FROM qflare.session AS e
            WHERE e.sid = c.sid AND e.tenant_id = c.tenant_id LIMIT 1) AS s
     WHERE c.slot = (p_bucket - 1) % 8 AND c.bucket = p_bucket - 1
       AND c.sid BETWEEN p_first AND p_last
       AND t.sid IS NULL
       AND s.state = 'live' AND s.epoch = c.epoch AND s.last_bucket >= p_bucket;
END
$$;

-- save_turn: write one step of the turn into p_bucket, and count it; the caller leads (lead_turn).
-- Page i holds the next p_sizes[i] of p_page_sids, which are in order of sid; chain keys go where absent.
CREATE OR REPLACE FUNCTION qflare.save_turn(
    p_bucket bigint, p_is_late boolean, p_done integer,
    p_page_tenants uuid[], p_sizes integer[], p_page_sids uuid[], p_page_epochs bigint[], p_pages bytea[],
    p_tenants uuid[], p_sids uuid[], p_epochs bigint[], p_chain_keys bytea[])
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_at    integer := 1;
    v_end   integer;
    v_saved bigint;
BEGIN
    INSERT INTO qflare.session_state (bucket, sid, tenant_id, slot, epoch, sealed_chain_key)
    SELECT p_bucket, c.sid, c.tenant_id, p_bucket % 8, c.epoch, c.chain_key
      FROM unnest(p_tenants, p_sids, p_epochs, p_chain_keys) AS c (tenant_id, sid, epoch, chain_key)
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS v_saved = ROW_COUNT;
    FOR v_page IN 1 .. cardinality(p_sizes) LOOP
        v_end := v_at + p_sizes[v_page] - 1;
        INSERT INTO qflare.session_page (bucket, tenant_id, first_sid, slot, last_sid, sids, epochs, sealed_chain_keys)
        VALUES (p_bucket, p_page_tenants[v_page], p_page_sids[v_at], p_bucket % 8, p_page_sids[v_end],
                p_page_sids[v_at:v_end], p_page_epochs[v_at:v_end], p_pages[v_page]);
        v_at := v_end + 1;
    END LOOP;
    v_saved := v_saved + v_at - 1;
    UPDATE qflare.bucket_turn AS t
       SET done       = t.done + CASE WHEN p_is_late THEN 0 ELSE 1 END,
           settled    = t.settled + CASE WHEN p_is_late THEN 1 ELSE 0 END,
           carried    = t.carried + v_saved,
           ended_at   = CASE WHEN NOT p_is_late AND t.done + 1 = t.ranges THEN clock_timestamp() ELSE t.ended_at END,
           settled_at = CASE WHEN p_is_late AND t.settled + 1 = t.ranges THEN clock_timestamp() END
     WHERE t.bucket = p_bucket AND p_done = CASE WHEN p_is_late THEN t.settled ELSE t.done END;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'this step of the turn was taken by another leader' USING ERRCODE = 'serialization_failure';
    END IF;
    RETURN v_saved;
END
$$;

SET LOCAL ROLE qflare_owner;
REVOKE CREATE ON SCHEMA qflare FROM qflare_maintenance;

-- empty_slots: empty the partitions of buckets that live no more; constant time, no row is read or deleted.
-- A slot is held against writers first, and skipped while it cannot be had at once.
CREATE OR REPLACE FUNCTION qflare.empty_slots() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_slot    integer;
    v_table   text;
    v_emptied integer := 0;
BEGIN
    FOR v_slot IN 0 .. 7 LOOP
        CONTINUE WHEN pg_relation_size(format('qflare.handshake_slot_%s', v_slot)) = 0
                  AND pg_relation_size(format('qflare.session_state_slot_%s', v_slot)) = 0
                  AND pg_relation_size(format('qflare.session_page_slot_%s', v_slot)) = 0
                  AND pg_relation_size(format('qflare.stream_slot_%s', v_slot)) = 0;
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(1363561217, v_slot);
        -- A statement of its own, after the lock: a bucket published meanwhile is seen.
        CONTINUE WHEN EXISTS (SELECT FROM qflare.bucket_key AS k WHERE k.bucket % 8 = v_slot);
        FOREACH v_table IN ARRAY ARRAY['handshake', 'session_state', 'session_page', 'stream'] LOOP
            EXECUTE format('TRUNCATE qflare.%I', format('%s_slot_%s', v_table, v_slot));
        END LOOP;
        v_emptied := v_emptied + 1;
    END LOOP;
    RETURN v_emptied;
END
$$;

-- Who may call what ----------------------------------------------------------------------------------------------------
RESET ROLE;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA qflare FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA qflare TO qflare_app;
