-- A rekey whose bucket turned while it was made is made again, and a turn carries no session that ended meanwhile.
-- Workers of version 22 go on: they call what they called, whose arguments are the same.

SET LOCAL ROLE qflare_owner;

-- rekey_session: unless the bucket turned since the claim was made for p_mark: then 'moved', and nothing is
-- done.  The old epoch's chain key would else rest in a bucket that ends before the old epoch does.
CREATE OR REPLACE FUNCTION qflare.rekey_session(
    p_tenant uuid, p_sid uuid, p_epoch bigint, p_body_hash bytea, p_first bigint, p_buckets bigint[],
    p_epochs bigint[], p_chain_keys bytea[], p_types text[], p_severities text[], p_devices text[], p_data bytea[],
    p_leaves bytea[], p_occurred_ms bigint[], p_mark bigint, OUT result text)
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_current bigint;
BEGIN
    -- Held to the end of the transaction, as the function that it calls holds it.
    PERFORM pg_advisory_xact_lock_shared(1363561219, 0);
    SELECT m.bucket INTO STRICT v_current FROM qflare.bucket_mark AS m FOR SHARE;
    IF v_current <> p_mark THEN
        result := 'moved';
    ELSE
        result := qflare.rekey_session(p_tenant, p_sid, p_epoch, p_body_hash, p_first, p_buckets, p_epochs,
                                       p_chain_keys, p_types, p_severities, p_devices, p_data, p_leaves,
                                       p_occurred_ms);
    END IF;
END
$$;

GRANT CREATE ON SCHEMA qflare TO qflare_maintenance;
SET LOCAL ROLE qflare_maintenance;

-- save_turn: write one step of the turn into p_bucket, and count it; the caller leads (lead_turn).
-- Page i holds the next p_sizes[i] of p_page_sids, which are in order of sid; chain keys go where absent.
-- A page is sealed as a whole: what has ended since the step read it lies on it to its bucket's end.
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
     -- Once more: a session may have ended, or been rekeyed, since the step read it.
     CROSS JOIN LATERAL (
           SELECT e.state, e.epoch FROM qflare.session AS e
            WHERE e.sid = c.sid AND e.tenant_id = c.tenant_id LIMIT 1) AS s
     WHERE s.state = 'live' AND s.epoch = c.epoch
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

RESET ROLE;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA qflare FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA qflare TO qflare_app;
GRANT EXECUTE ON FUNCTION qflare.hold_buckets(bigint[]) TO qflare_maintenance;
