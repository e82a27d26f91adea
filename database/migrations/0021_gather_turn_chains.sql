-- A turn reads chain keys that are rows of their own a tenant at a time, not a row at a time.
-- Workers of version 20 go on: the function that they call stays.

GRANT CREATE ON SCHEMA qflare TO qflare_maintenance;
SET LOCAL ROLE qflare_maintenance;

-- gather_turn_chains: live sessions' single chain keys of the bucket before p_bucket, inside a range of ids; of their
-- present epoch (R7). One row a tenant: sids has 16 bytes a key, in the order of epochs and sealed_chain_keys.
CREATE OR REPLACE FUNCTION qflare.gather_turn_chains(p_bucket bigint, p_first uuid, p_last uuid)
RETURNS TABLE (tenant_id uuid, sids bytea, epochs bigint[], sealed_chain_keys bytea[])
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT c.tenant_id, string_agg(uuid_send(c.sid), ''::bytea), array_agg(c.epoch::bigint),
           array_agg(c.sealed_chain_key::bytea)
      FROM qflare.session_state AS c
     CROSS JOIN LATERAL (
           SELECT e.state, e.epoch, e.last_bucket FROM qflare.session AS e
            WHERE e.sid = c.sid AND e.tenant_id = c.tenant_id LIMIT 1) AS s
     WHERE c.slot = (p_bucket - 1) % 8 AND c.bucket = p_bucket - 1
       AND c.sid BETWEEN p_first AND p_last
       AND s.state = 'live' AND s.epoch = c.epoch AND s.last_bucket >= p_bucket
     GROUP BY c.tenant_id;
END
$$;

SET LOCAL ROLE qflare_owner;
REVOKE CREATE ON SCHEMA qflare FROM qflare_maintenance;

-- Who may call what ----------------------------------------------------------------------------------------------------
RESET ROLE;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA qflare FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA qflare TO qflare_app;
