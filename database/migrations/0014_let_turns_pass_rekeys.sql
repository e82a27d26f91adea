-- Rekeys let a turn pass that waits for them.
-- Workers of version 13 go on: what they wait for is held as before.

SET LOCAL ROLE qflare_owner;

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
    -- In line with it: those who share a row pass whoever waits to change it, and a stream of rekeys would keep the
    -- turn waiting for ever.
    PERFORM pg_advisory_xact_lock_shared(1363561219, 0);
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

RESET ROLE;
