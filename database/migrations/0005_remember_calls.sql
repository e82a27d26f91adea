-- Changes that have no key of their own are remembered, and done once (decision 0031).
-- Workers of version 4 go on: what is new has defaults.

SET LOCAL ROLE qflare_owner;

ALTER TABLE qflare.stream ADD COLUMN call_id uuid;

-- Changes that were carried out and have no key of their own in another table (decision 0031): who repeats one gets its
-- outcome.  A ring of four partitions of twelve hours each: a change is remembered for a day at least.
CREATE TABLE IF NOT EXISTS qflare.call (
    tenant_id  uuid     NOT NULL,
    call_id    uuid     NOT NULL,
    slot       smallint NOT NULL,
    kind       text     NOT NULL,
    outcome    bigint,
    CONSTRAINT call_pkey PRIMARY KEY (call_id, tenant_id, slot),
    CONSTRAINT call_slot_range CHECK (slot BETWEEN 0 AND 3),
    CONSTRAINT call_kind_size CHECK (octet_length(kind) BETWEEN 1 AND 32)
) PARTITION BY LIST (slot);

DO $$
DECLARE
    v_leaf text;
BEGIN
    FOR v_slot IN 0 .. 3 LOOP
        v_leaf := format('call_slot_%s', v_slot);
        EXECUTE format('CREATE TABLE qflare.%I PARTITION OF qflare.call FOR VALUES IN (%s)', v_leaf, v_slot);
        -- Nobody reads a partition by its own name: it has security on and no policy.
        EXECUTE format('ALTER TABLE qflare.%I ENABLE ROW LEVEL SECURITY', v_leaf);
        EXECUTE format('ALTER TABLE qflare.%I FORCE ROW LEVEL SECURITY', v_leaf);
    END LOOP;
END
$$;
ALTER TABLE qflare.call ENABLE ROW LEVEL SECURITY;
ALTER TABLE qflare.call FORCE ROW LEVEL SECURITY;
CREATE POLICY call_of_tenant ON qflare.call TO qflare_app
    USING (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid));
CREATE POLICY call_for_auditor ON qflare.call FOR SELECT TO qflare_auditor USING (true);
GRANT SELECT ON qflare.call, qflare.call_slot_0, qflare.call_slot_1, qflare.call_slot_2, qflare.call_slot_3
   TO qflare_auditor;
GRANT SELECT, INSERT ON qflare.call TO qflare_app;

-- note_calls: remember changes that the caller's transaction carries out; the last thing it does, after its events:
-- under the log's lock nobody else's stands between the look and the row, whatever partition it lies in.
-- p_outcomes are added to p_base, which is an index of the log where a change is an event.
CREATE OR REPLACE FUNCTION qflare.note_calls(
    p_tenant uuid, p_calls uuid[], p_kind text, p_base bigint, p_outcomes bigint[])
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean  := qflare.enter(p_tenant);  -- before anything else
    v_slot    CONSTANT smallint := floor(extract(epoch FROM clock_timestamp()) / 43200)::bigint % 4;
    v_noted   bigint;
BEGIN
    INSERT INTO qflare.call (tenant_id, call_id, slot, kind, outcome)
    SELECT p_tenant, n.call_id, v_slot, p_kind, p_base + n.outcome
      FROM unnest(p_calls, p_outcomes) AS n (call_id, outcome)
      LEFT JOIN LATERAL (
           SELECT e.call_id FROM qflare.call AS e
            WHERE e.call_id = n.call_id AND e.tenant_id = p_tenant LIMIT 1) AS k ON true
     WHERE k.call_id IS NULL
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS v_noted = ROW_COUNT;
    IF v_noted <> cardinality(p_calls) THEN
        RAISE EXCEPTION 'a change was carried out before'
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'call_once', TABLE = 'call';
    END IF;
    RETURN true;
END
$$;

-- find_calls: which of these changes were carried out, and their outcomes.
CREATE OR REPLACE FUNCTION qflare.find_calls(p_tenant uuid, p_calls uuid[])
RETURNS TABLE (call_id uuid, kind text, outcome bigint)
LANGUAGE plpgsql ROWS 4 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
BEGIN
    RETURN QUERY
    SELECT k.call_id, k.kind, k.outcome
      FROM unnest(p_calls) AS n (call_id)
     CROSS JOIN LATERAL (
           SELECT e.call_id, e.kind, e.outcome FROM qflare.call AS e
            WHERE e.call_id = n.call_id AND e.tenant_id = p_tenant LIMIT 1) AS k;
END
$$;

-- accept_streams: take each stream once (R4), in a live session and a live bucket; accepted[i] says so.
-- What this very p_call took in a transaction whose end its caller did not see is taken still.
-- The old epoch of a session is read to the end of the bucket after its rekey (R7).
CREATE OR REPLACE FUNCTION qflare.accept_streams(
    p_tenant uuid, p_sids uuid[], p_directions smallint[], p_stream_ids uuid[], p_buckets bigint[],
    p_epochs bigint[], p_now timestamptz, p_call uuid, OUT accepted boolean[])
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_live       bigint[] := qflare.hold_buckets(p_buckets);
    v_sids       uuid[];        -- live sessions, with their buckets and epoch,
    v_starts     bigint[];
    v_lasts      bigint[];
    v_epochs     bigint[];
    v_rekeyed    bigint[];      -- server's bucket at the last rekey
    v_fresh      uuid[];        -- and those of them that never carried a record
    v_taken_sids uuid[];        -- streams that are new
    v_directions smallint[];
    v_stream_ids uuid[];
    v_buckets    bigint[];
BEGIN
    -- The session's row is locked, so that its end comes wholly before or wholly after.
    SELECT array_agg(s.sid), array_agg(s.start_bucket), array_agg(s.last_bucket),
           array_agg(s.epoch), array_agg(s.rekey_bucket), array_agg(s.sid) FILTER (WHERE s.carried_at IS NULL)
      INTO v_sids, v_starts, v_lasts, v_epochs, v_rekeyed, v_fresh
      FROM (SELECT e.sid, e.start_bucket, e.last_bucket, e.epoch, e.rekey_bucket, e.carried_at, e.state
              FROM qflare.session AS e
             WHERE e.tenant_id = p_tenant AND e.sid = ANY (p_sids)
             ORDER BY e.sid
               FOR NO KEY UPDATE) AS s
     -- Asked here, not above: there it would invite the index of live sessions.
     WHERE s.state = 'live';
    WITH taken AS (
        INSERT INTO qflare.stream (tenant_id, sid, stream_id, bucket, direction, slot, call_id)
        SELECT p_tenant, c.sid, c.stream_id, c.bucket, c.direction, c.bucket % 8, p_call
          FROM unnest(p_sids, p_directions, p_stream_ids, p_buckets, p_epochs)
               AS c (sid, direction, stream_id, bucket, epoch)
          JOIN unnest(v_sids, v_starts, v_lasts, v_epochs, v_rekeyed)
               AS a (sid, start_bucket, last_bucket, epoch, rekey_bucket)
            ON a.sid = c.sid AND c.bucket BETWEEN a.start_bucket AND a.last_bucket
           AND (c.epoch = a.epoch
                OR (c.epoch = a.epoch - 1 AND (SELECT m.bucket FROM qflare.bucket_mark AS m) <= a.rekey_bucket + 1))
         WHERE c.bucket = ANY (v_live)
        ON CONFLICT DO NOTHING
        RETURNING sid, direction, stream_id, bucket)
    SELECT array_agg(t.sid), array_agg(t.direction), array_agg(t.stream_id), array_agg(t.bucket)
      INTO v_taken_sids, v_directions, v_stream_ids, v_buckets
      FROM taken AS t;
    IF cardinality(v_stream_ids) = cardinality(p_stream_ids) THEN       -- what nearly always is
        accepted := array_fill(true, ARRAY[cardinality(p_stream_ids)]);
    ELSE
        SELECT array_agg((t.sid IS NOT NULL OR r.sid IS NOT NULL) AND c.turn = 1 ORDER BY c.place) INTO accepted
          FROM (SELECT u.*, row_number() OVER (PARTITION BY u.sid, u.direction, u.stream_id, u.bucket ORDER BY u.place)
                       AS turn
                  FROM unnest(p_sids, p_directions, p_stream_ids, p_buckets) WITH ORDINALITY
                       AS u (sid, direction, stream_id, bucket, place)) AS c
          LEFT JOIN unnest(v_taken_sids, v_directions, v_stream_ids, v_buckets)
                    AS t (sid, direction, stream_id, bucket)
            ON t.sid = c.sid AND t.direction = c.direction AND t.stream_id = c.stream_id AND t.bucket = c.bucket
          LEFT JOIN LATERAL (
               SELECT e.sid FROM qflare.stream AS e
                WHERE t.sid IS NULL AND e.slot = c.bucket % 8 AND e.stream_id = c.stream_id AND e.sid = c.sid
                  AND e.direction = c.direction AND e.bucket = c.bucket AND e.tenant_id = p_tenant
                  AND e.call_id = p_call LIMIT 1) AS r ON true;
        v_fresh := ARRAY(SELECT f.sid FROM unnest(v_fresh) AS f (sid) WHERE f.sid = ANY (v_taken_sids));
    END IF;
    IF v_fresh <> '{}' THEN
        UPDATE qflare.session AS s
           SET carried_at = p_now
         WHERE s.tenant_id = p_tenant AND s.sid = ANY (v_fresh) AND s.carried_at IS NULL;
    END IF;
END
$$;

-- accept_streams of version 2, whose workers take each stream in one attempt.
CREATE OR REPLACE FUNCTION qflare.accept_streams(
    p_tenant uuid, p_sids uuid[], p_directions smallint[], p_stream_ids uuid[], p_buckets bigint[],
    p_epochs bigint[], p_now timestamptz, OUT accepted boolean[])
LANGUAGE plpgsql AS $$
BEGIN
    accepted := qflare.accept_streams(p_tenant, p_sids, p_directions, p_stream_ids, p_buckets, p_epochs, p_now,
                                      NULL::uuid);
END
$$;

-- empty_call_slots: empty the partition that changes go into next; what lies in it is a day old at least.
CREATE OR REPLACE FUNCTION qflare.empty_call_slots() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_turn  CONSTANT bigint := floor(extract(epoch FROM clock_timestamp()) / 43200)::bigint;
    v_table CONSTANT text   := format('call_slot_%s', (v_turn + 1) % 4);
BEGIN
    IF pg_relation_size(format('qflare.%I', v_table)) = 0 THEN
        RETURN 0;
    END IF;
    EXECUTE format('LOCK TABLE qflare.%I IN ACCESS EXCLUSIVE MODE', v_table);
    -- After the wait: the turn may have come meanwhile, and then new changes lie in it.
    IF floor(extract(epoch FROM clock_timestamp()) / 43200)::bigint <> v_turn THEN
        RETURN 0;
    END IF;
    EXECUTE format('TRUNCATE qflare.%I', v_table);
    RETURN 1;
END
$$;

-- Who may call what ----------------------------------------------------------------------------------------------------
RESET ROLE;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA qflare FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA qflare TO qflare_app;
