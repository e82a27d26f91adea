-- Rekeys (R7) and reply keys (R6).
-- Workers of version 1 go on: they know epoch 0 alone, and what they do not know does not open for them.

SET LOCAL ROLE qflare_owner;

-- Sessions: the rekey that led to the present epoch -------------------------------------------------------------------

DO $$
BEGIN
    CREATE DOMAIN qflare.session_rekey_hash AS bytea
        CONSTRAINT session_rekey_hash_size CHECK (octet_length(VALUE) = 64);
    CREATE DOMAIN qflare.reply_key_sealed_reply_key AS bytea
        CONSTRAINT reply_key_sealed_reply_key_size CHECK (octet_length(VALUE) BETWEEN 80 AND 128);
END
$$;
ALTER TABLE qflare.session
    ADD COLUMN rekey_hash   qflare.session_rekey_hash,
    ADD COLUMN rekey_bucket bigint;

-- In the bucket of a rekey both epochs' chain keys rest.
ALTER TABLE qflare.session_state
    DROP CONSTRAINT session_state_pkey,
    ADD CONSTRAINT session_state_pkey PRIMARY KEY (bucket, sid, epoch, tenant_id, slot);

-- Reply keys ---------------------------------------------------------------------------------------------------------

-- Keys of replies that may come late (R6), one row a request, sealed under the KEK of `bucket` and again at each turn;
-- read when a reply comes or goes, deleted when it is taken.  direction is the reply's.
CREATE TABLE qflare.reply_key (
    tenant_id        uuid     NOT NULL,
    sid              uuid     NOT NULL,
    request_id       uuid     NOT NULL,
    direction        smallint NOT NULL,
    request_bucket   bigint   NOT NULL,
    request_epoch    qflare.session_epoch NOT NULL,
    expires_bucket   bigint   NOT NULL,
    bucket           bigint   NOT NULL,
    sealed_reply_key qflare.reply_key_sealed_reply_key NOT NULL,
    CONSTRAINT reply_key_pkey PRIMARY KEY (request_id, sid, tenant_id),
    CONSTRAINT reply_key_direction_known CHECK (direction IN (1, 2)),
    CONSTRAINT reply_key_bucket_range CHECK (request_bucket BETWEEN 0 AND expires_bucket)
);

-- Read by the turn, which seals reply keys again in order of request.
CREATE INDEX reply_key_by_bucket ON qflare.reply_key (bucket, request_id);
-- Read by the clean-up of replies that never came.
CREATE INDEX reply_key_by_expiry ON qflare.reply_key (expires_bucket);
-- Read by the count of a session's outstanding replies.
CREATE INDEX reply_key_by_session ON qflare.reply_key (sid, tenant_id);

ALTER TABLE qflare.reply_key ENABLE ROW LEVEL SECURITY;
ALTER TABLE qflare.reply_key FORCE ROW LEVEL SECURITY;
CREATE POLICY reply_key_of_tenant ON qflare.reply_key TO qflare_app
    USING (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid));
CREATE POLICY reply_key_for_auditor ON qflare.reply_key FOR SELECT TO qflare_auditor USING (true);
CREATE POLICY reply_key_for_maintenance ON qflare.reply_key FOR SELECT TO qflare_maintenance USING (true);
CREATE POLICY reply_key_turned ON qflare.reply_key FOR UPDATE TO qflare_maintenance USING (true) WITH CHECK (true);
CREATE POLICY reply_key_dropped ON qflare.reply_key FOR DELETE TO qflare_maintenance USING (true);
GRANT SELECT ON qflare.reply_key TO qflare_auditor;
GRANT SELECT, INSERT, DELETE ON qflare.reply_key TO qflare_app;
GRANT SELECT, UPDATE, DELETE ON qflare.reply_key TO qflare_maintenance;

-- Functions of the application -----------------------------------------------------------------------------------------

-- find_chains: sealed chain keys of sessions for a range of buckets, the present epoch's and the one before (R7).
CREATE OR REPLACE FUNCTION qflare.find_chains(p_tenant uuid, p_sids uuid[], p_first bigint, p_last bigint)
RETURNS TABLE (sid uuid, bucket bigint, epoch bigint, sealed_chain_key bytea)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
BEGIN
    -- Only live buckets, of which there are a handful.
    RETURN QUERY
    SELECT c.sid, c.bucket, c.epoch::bigint, c.sealed_chain_key::bytea
      FROM qflare.bucket_key AS k
     CROSS JOIN unnest(p_sids) AS w (sid)
     CROSS JOIN LATERAL (
           SELECT e.sid, e.bucket, e.epoch, e.sealed_chain_key FROM qflare.session_state AS e
            WHERE e.slot = k.bucket % 8 AND e.bucket = k.bucket AND e.sid = w.sid AND e.tenant_id = p_tenant
            ORDER BY e.epoch DESC LIMIT 2) AS c
     WHERE k.bucket BETWEEN p_first AND p_last
     ORDER BY c.sid, c.bucket, c.epoch DESC;
END
$$;

-- accept_streams: take each stream once (R4), in a live session and a live bucket; accepted[i] says so.
-- The old epoch of a session is read to the end of the bucket after its rekey (R7).
CREATE OR REPLACE FUNCTION qflare.accept_streams(
    p_tenant uuid, p_sids uuid[], p_directions smallint[], p_stream_ids uuid[], p_buckets bigint[],
    p_epochs bigint[], p_now timestamptz, OUT accepted boolean[])
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
        INSERT INTO qflare.stream (tenant_id, sid, stream_id, bucket, direction, slot)
        SELECT p_tenant, c.sid, c.stream_id, c.bucket, c.direction, c.bucket % 8
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
        SELECT array_agg(t.sid IS NOT NULL AND c.turn = 1 ORDER BY c.place) INTO accepted
          FROM (SELECT u.*, row_number() OVER (PARTITION BY u.sid, u.direction, u.stream_id, u.bucket ORDER BY u.place)
                       AS turn
                  FROM unnest(p_sids, p_directions, p_stream_ids, p_buckets) WITH ORDINALITY
                       AS u (sid, direction, stream_id, bucket, place)) AS c
          LEFT JOIN unnest(v_taken_sids, v_directions, v_stream_ids, v_buckets)
                    AS t (sid, direction, stream_id, bucket)
            ON t.sid = c.sid AND t.direction = c.direction AND t.stream_id = c.stream_id AND t.bucket = c.bucket;
        v_fresh := ARRAY(SELECT f.sid FROM unnest(v_fresh) AS f (sid) WHERE f.sid = ANY (v_taken_sids));
    END IF;
    IF v_fresh <> '{}' THEN
        UPDATE qflare.session AS s
           SET carried_at = p_now
         WHERE s.tenant_id = p_tenant AND s.sid = ANY (v_fresh) AND s.carried_at IS NULL;
    END IF;
END
$$;

-- accept_streams of version 1, whose workers open records of epoch 0 alone.
CREATE OR REPLACE FUNCTION qflare.accept_streams(
    p_tenant uuid, p_sids uuid[], p_directions smallint[], p_stream_ids uuid[], p_buckets bigint[], p_now timestamptz,
    OUT accepted boolean[])
LANGUAGE plpgsql AS $$
BEGIN
    accepted := qflare.accept_streams(p_tenant, p_sids, p_directions, p_stream_ids, p_buckets,
                                      array_fill(0::bigint, ARRAY[cardinality(p_sids)]), p_now);
END
$$;

-- accept_requests: accept streams of requests (R4) together with the keys of their replies (R6), at most p_most
-- outstanding ones a session; results[i] is 'accepted', 'refused' or 'full'.
CREATE OR REPLACE FUNCTION qflare.accept_requests(
    p_tenant uuid, p_sids uuid[], p_request_ids uuid[], p_buckets bigint[], p_epochs bigint[], p_expires bigint[],
    p_sealed_buckets bigint[], p_reply_keys bytea[], p_most bigint, p_now timestamptz, OUT results text[])
LANGUAGE plpgsql AS $$
DECLARE
    v_entered  CONSTANT boolean  := qflare.enter(p_tenant);  -- before anything else
    v_live     CONSTANT bigint[] := qflare.hold_buckets(p_buckets);  -- slots are held before sessions
    v_places   bigint[];
    v_accepted boolean[];
BEGIN
    PERFORM FROM qflare.session AS s
      WHERE s.tenant_id = p_tenant AND s.sid = ANY (p_sids) ORDER BY s.sid FOR NO KEY UPDATE;
    -- With the sessions held nobody else counts.
    SELECT array_agg(c.place ORDER BY c.place) INTO v_places
      FROM (SELECT u.place, u.sid, row_number() OVER (PARTITION BY u.sid ORDER BY u.place) AS turn
              FROM unnest(p_sids) WITH ORDINALITY AS u (sid, place)) AS c
     WHERE c.turn + (SELECT count(*) FROM qflare.reply_key AS r
                      WHERE r.sid = c.sid AND r.tenant_id = p_tenant) <= p_most;
    results := array_fill('full'::text, ARRAY[cardinality(p_sids)]);
    IF v_places IS NULL THEN
        RETURN;
    END IF;
    v_accepted := qflare.accept_streams(
        p_tenant, ARRAY(SELECT p_sids[p] FROM unnest(v_places) AS p),
        array_fill(1::smallint, ARRAY[cardinality(v_places)]),
        ARRAY(SELECT p_request_ids[p] FROM unnest(v_places) AS p),
        ARRAY(SELECT p_buckets[p] FROM unnest(v_places) AS p),
        ARRAY(SELECT p_epochs[p] FROM unnest(v_places) AS p), p_now);
    FOR v_turn IN 1 .. cardinality(v_places) LOOP
        results[v_places[v_turn]] := 'refused';
        IF v_accepted[v_turn] THEN
            INSERT INTO qflare.reply_key (tenant_id, sid, request_id, direction, request_bucket, request_epoch,
                                          expires_bucket, bucket, sealed_reply_key)
            VALUES (p_tenant, p_sids[v_places[v_turn]], p_request_ids[v_places[v_turn]], 2,
                    p_buckets[v_places[v_turn]], p_epochs[v_places[v_turn]], p_expires[v_places[v_turn]],
                    p_sealed_buckets[v_places[v_turn]], p_reply_keys[v_places[v_turn]])
            ON CONFLICT DO NOTHING;
            IF FOUND THEN
                results[v_places[v_turn]] := 'accepted';
            END IF;
        END IF;
    END LOOP;
END
$$;

-- save_reply_keys: keys of replies to our own requests (R6), of live sessions in their present epoch and at most
-- p_most outstanding ones a session; results[i] is 'saved', 'refused' or 'full'.
CREATE OR REPLACE FUNCTION qflare.save_reply_keys(
    p_tenant uuid, p_sids uuid[], p_request_ids uuid[], p_buckets bigint[], p_epochs bigint[], p_expires bigint[],
    p_sealed_buckets bigint[], p_reply_keys bytea[], p_most bigint, OUT results text[])
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
BEGIN
    PERFORM FROM qflare.session AS s
      WHERE s.tenant_id = p_tenant AND s.sid = ANY (p_sids) ORDER BY s.sid FOR NO KEY UPDATE;
    SELECT array_agg(CASE WHEN s.sid IS NULL THEN 'refused'
                          WHEN c.turn + (SELECT count(*) FROM qflare.reply_key AS r
                                          WHERE r.sid = c.sid AND r.tenant_id = p_tenant) > p_most THEN 'full'
                          ELSE 'saved' END ORDER BY c.place) INTO results
      FROM (SELECT u.place, u.sid, u.epoch, row_number() OVER (PARTITION BY u.sid ORDER BY u.place) AS turn
              FROM unnest(p_sids, p_epochs) WITH ORDINALITY AS u (sid, epoch, place)) AS c
      LEFT JOIN LATERAL (
           SELECT e.sid FROM qflare.session AS e
            WHERE e.sid = c.sid AND e.tenant_id = p_tenant AND e.state = 'live' AND e.epoch = c.epoch
            LIMIT 1) AS s ON true;
    INSERT INTO qflare.reply_key (tenant_id, sid, request_id, direction, request_bucket, request_epoch,
                                  expires_bucket, bucket, sealed_reply_key)
    SELECT p_tenant, c.sid, c.request_id, 1, c.bucket, c.epoch, c.expires, c.sealed_bucket, c.reply_key
      FROM unnest(results, p_sids, p_request_ids, p_buckets, p_epochs, p_expires, p_sealed_buckets, p_reply_keys)
           AS c (result, sid, request_id, bucket, epoch, expires, sealed_bucket, reply_key)
     WHERE c.result = 'saved';
END
$$;

-- find_reply_keys: outstanding replies by (session, request).
CREATE OR REPLACE FUNCTION qflare.find_reply_keys(p_tenant uuid, p_sids uuid[], p_request_ids uuid[])
RETURNS TABLE (sid uuid, request_id uuid, direction smallint, request_bucket bigint, request_epoch bigint,
               expires_bucket bigint, bucket bigint, sealed_reply_key bytea)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
BEGIN
    RETURN QUERY
    SELECT r.sid, r.request_id, r.direction, r.request_bucket, r.request_epoch::bigint, r.expires_bucket, r.bucket,
           r.sealed_reply_key::bytea
      FROM unnest(p_sids, p_request_ids) AS w (sid, request_id)
     CROSS JOIN LATERAL (
           SELECT e.* FROM qflare.reply_key AS e
            WHERE e.request_id = w.request_id AND e.sid = w.sid AND e.tenant_id = p_tenant LIMIT 1) AS r;
END
$$;

-- take_reply_keys: delete the keys of replies that are taken now, each once, of live sessions and in time (R6);
-- taken[i] says so.
CREATE OR REPLACE FUNCTION qflare.take_reply_keys(
    p_tenant uuid, p_sids uuid[], p_request_ids uuid[], p_direction smallint, p_bucket bigint, p_now timestamptz,
    OUT taken boolean[])
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_live    uuid[];
    v_taken   uuid[];
BEGIN
    -- The session's row is locked, so that its end comes wholly before or wholly after.
    SELECT array_agg(s.sid) INTO v_live
      FROM (SELECT e.sid, e.state
              FROM qflare.session AS e
             WHERE e.tenant_id = p_tenant AND e.sid = ANY (p_sids)
             ORDER BY e.sid
               FOR NO KEY UPDATE) AS s
     WHERE s.state = 'live';
    WITH gone AS (
        DELETE FROM qflare.reply_key AS r
         WHERE r.tenant_id = p_tenant AND r.request_id = ANY (p_request_ids) AND r.sid = ANY (v_live)
           AND r.direction = p_direction AND r.expires_bucket >= p_bucket
           AND (r.sid, r.request_id) IN (SELECT w.sid, w.request_id
                                           FROM unnest(p_sids, p_request_ids) AS w (sid, request_id))
        RETURNING r.request_id)
    SELECT array_agg(g.request_id) INTO v_taken FROM gone AS g;
    SELECT array_agg(w.request_id = ANY (coalesce(v_taken, '{}')) AND w.turn = 1 ORDER BY w.place) INTO taken
      FROM (SELECT u.request_id, u.place, row_number() OVER (PARTITION BY u.sid, u.request_id ORDER BY u.place) AS turn
              FROM unnest(p_sids, p_request_ids) WITH ORDINALITY AS u (sid, request_id, place)) AS w;
    IF p_direction = 1 AND v_taken IS NOT NULL THEN
        UPDATE qflare.session AS s
           SET carried_at = p_now
         WHERE s.tenant_id = p_tenant AND s.sid = ANY (v_live) AND s.carried_at IS NULL;
    END IF;
END
$$;

-- rekey_session: make p_epoch the session's epoch if it comes next (R7), with its first chain keys, the old epoch's
-- for the present bucket, and the event. result: 'rekeyed', 'repeated', 'conflict', 'expired' or 'ended'.
CREATE OR REPLACE FUNCTION qflare.rekey_session(
    p_tenant uuid, p_sid uuid, p_epoch bigint, p_body_hash bytea, p_first bigint, p_buckets bigint[],
    p_epochs bigint[], p_chain_keys bytea[], p_types text[], p_severities text[], p_devices text[], p_data bytea[],
    p_leaves bytea[], p_occurred_ms bigint[], OUT result text)
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_current bigint;
    v_expired bigint;
    v_live    bigint[];
    v_state   text;
    v_epoch   bigint;
    v_hash    bytea;
    v_bucket  bigint;
    v_last    bigint;
BEGIN
    -- A worker that turns to the next bucket waits for this: no record of a bucket after p_first + 1 is written in
    -- the old epoch before the commit, so that a device may take such a record as the end of its rekey.
    SELECT m.bucket, m.expired_before INTO STRICT v_current, v_expired FROM qflare.bucket_mark AS m FOR SHARE;
    v_live := qflare.hold_buckets(p_buckets);
    SELECT s.state, s.epoch, s.rekey_hash, s.rekey_bucket, s.last_bucket
      INTO v_state, v_epoch, v_hash, v_bucket, v_last
      FROM qflare.session AS s
     WHERE s.tenant_id = p_tenant AND s.sid = p_sid FOR NO KEY UPDATE;
    IF NOT FOUND OR v_state <> 'live' OR v_last < v_expired THEN
        result := 'ended';
    ELSIF v_epoch = p_epoch AND v_hash = p_body_hash AND v_current <= v_bucket + 1 THEN
        result := 'repeated';
    ELSIF v_epoch + 1 <> p_epoch THEN
        result := 'conflict';
    ELSIF p_first NOT BETWEEN v_current - 1 AND v_current + 1 OR NOT p_buckets <@ v_live OR p_buckets = '{}' THEN
        result := 'expired';
    ELSE
        UPDATE qflare.session AS s
           SET epoch = p_epoch, rekey_hash = p_body_hash, rekey_bucket = v_current
         WHERE s.tenant_id = p_tenant AND s.sid = p_sid;
        INSERT INTO qflare.session_state (bucket, sid, tenant_id, slot, epoch, sealed_chain_key)
        SELECT c.bucket, p_sid, p_tenant, c.bucket % 8, c.epoch, c.chain_key
          FROM unnest(p_buckets, p_epochs, p_chain_keys) AS c (bucket, epoch, chain_key)
        ON CONFLICT DO NOTHING;
        PERFORM qflare.write_events(p_tenant, array_fill(true, ARRAY[cardinality(p_types)]), p_types, p_severities,
                                    p_devices, p_data, p_leaves, p_occurred_ms);
        result := 'rekeyed';
    END IF;
END
$$;

-- Functions that cross tenants ----------------------------------------------------------------------------------------

GRANT CREATE ON SCHEMA qflare TO qflare_maintenance;
SET LOCAL ROLE qflare_maintenance;

-- list_chains: live sessions' chain keys of one bucket in order of sid, a page at a time: what a turn steps.
CREATE OR REPLACE FUNCTION qflare.list_chains(p_bucket bigint, p_limit bigint, p_after uuid)
RETURNS TABLE (tenant_id uuid, sid uuid, bucket bigint, epoch bigint, sealed_chain_key bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    -- Bounds of the whole range, so that every page begins where the last one ended.
    RETURN QUERY
    SELECT c.tenant_id, c.sid, c.bucket, c.epoch::bigint, c.sealed_chain_key::bytea
      FROM qflare.session_state AS c
     CROSS JOIN LATERAL (
           SELECT e.state, e.epoch FROM qflare.session AS e
            WHERE e.sid = c.sid AND e.tenant_id = c.tenant_id LIMIT 1) AS s
     WHERE c.slot = p_bucket % 8 AND c.bucket = p_bucket
       AND s.state = 'live'
       AND s.epoch = c.epoch
       AND c.sid >= coalesce(p_after, '00000000-0000-0000-0000-000000000000')
       AND c.sid IS DISTINCT FROM p_after
     ORDER BY c.sid
     LIMIT p_limit;
END
$$;

-- save_chains: chain keys where absent, of live sessions in live buckets; returns how many were new.
CREATE OR REPLACE FUNCTION qflare.save_chains(
    p_tenants uuid[], p_sids uuid[], p_buckets bigint[], p_epochs bigint[], p_chain_keys bytea[])
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_live  bigint[] := qflare.hold_buckets(p_buckets);
    v_saved bigint;
BEGIN
    INSERT INTO qflare.session_state (bucket, sid, tenant_id, slot, epoch, sealed_chain_key)
    SELECT c.bucket, c.sid, c.tenant_id, c.bucket % 8, c.epoch, c.chain_key
      FROM unnest(p_tenants, p_sids, p_buckets, p_epochs, p_chain_keys) AS c (tenant_id, sid, bucket, epoch, chain_key)
     CROSS JOIN LATERAL (
           SELECT e.state, e.epoch, e.start_bucket, e.last_bucket FROM qflare.session AS e
            WHERE e.sid = c.sid AND e.tenant_id = c.tenant_id LIMIT 1) AS s
     WHERE c.bucket = ANY (v_live)
       AND s.state = 'live'
       AND s.epoch = c.epoch
       AND c.bucket BETWEEN s.start_bucket AND s.last_bucket
     ORDER BY c.sid
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS v_saved = ROW_COUNT;
    RETURN v_saved;
END
$$;

-- list_reply_keys: keys of outstanding replies of live sessions, as sealed in one bucket, in order of request, a page
-- at a time: what a turn seals again.
CREATE OR REPLACE FUNCTION qflare.list_reply_keys(p_bucket bigint, p_limit bigint, p_after uuid)
RETURNS TABLE (tenant_id uuid, sid uuid, request_id uuid, direction smallint, request_bucket bigint,
               request_epoch bigint, expires_bucket bigint, bucket bigint, sealed_reply_key bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT r.tenant_id, r.sid, r.request_id, r.direction, r.request_bucket, r.request_epoch::bigint, r.expires_bucket,
           r.bucket, r.sealed_reply_key::bytea
      FROM qflare.reply_key AS r
     CROSS JOIN LATERAL (
           SELECT e.state FROM qflare.session AS e WHERE e.sid = r.sid AND e.tenant_id = r.tenant_id LIMIT 1) AS s
     WHERE r.bucket = p_bucket
       AND s.state = 'live'
       AND r.request_id >= coalesce(p_after, '00000000-0000-0000-0000-000000000000')
       AND r.request_id IS DISTINCT FROM p_after
     ORDER BY r.request_id
     LIMIT p_limit;
END
$$;

-- reseal_reply_keys: put values that were sealed for a later bucket in the place of the earlier ones; one that was
-- taken meanwhile stays away. Returns how many were replaced.
CREATE OR REPLACE FUNCTION qflare.reseal_reply_keys(
    p_tenants uuid[], p_sids uuid[], p_request_ids uuid[], p_buckets bigint[], p_reply_keys bytea[])
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_count bigint;
BEGIN
    -- In one order, so that two workers that turn at once wait for each other instead of locking up.
    PERFORM FROM qflare.reply_key AS r
      WHERE r.request_id = ANY (p_request_ids) ORDER BY r.request_id FOR UPDATE;
    UPDATE qflare.reply_key AS r
       SET bucket = c.bucket, sealed_reply_key = c.reply_key
      FROM unnest(p_tenants, p_sids, p_request_ids, p_buckets, p_reply_keys)
           AS c (tenant_id, sid, request_id, bucket, reply_key)
     WHERE r.request_id = c.request_id AND r.sid = c.sid AND r.tenant_id = c.tenant_id AND r.bucket < c.bucket;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$$;

-- drop_reply_keys: delete, at most p_limit of each, keys whose bucket lives no more and those whose time is over.
CREATE OR REPLACE FUNCTION qflare.drop_reply_keys(p_before bigint, p_bucket bigint, p_limit bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_lost bigint;
    v_over bigint;
BEGIN
    -- One that a worker takes or seals at this moment is left for the next time.
    DELETE FROM qflare.reply_key AS r
     WHERE r.ctid = ANY (ARRAY(SELECT e.ctid FROM qflare.reply_key AS e
                                WHERE e.bucket < p_before LIMIT p_limit FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS v_lost = ROW_COUNT;
    DELETE FROM qflare.reply_key AS r
     WHERE r.ctid = ANY (ARRAY(SELECT e.ctid FROM qflare.reply_key AS e
                                WHERE e.expires_bucket < p_bucket LIMIT p_limit FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS v_over = ROW_COUNT;
    RETURN v_lost + v_over;
END
$$;

SET LOCAL ROLE qflare_owner;
REVOKE CREATE ON SCHEMA qflare FROM qflare_maintenance;

-- Who may call what ----------------------------------------------------------------------------------------------------
RESET ROLE;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA qflare FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA qflare TO qflare_app;
