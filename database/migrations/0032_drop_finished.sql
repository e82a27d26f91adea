-- Closed incidents and finished responses are removed after a time.
--
-- Safe while the version before still runs: it removes nothing, and what is removed it can do without.

SET LOCAL ROLE qflare_owner;

-- Read by the clean-up: closed incidents, the oldest first.
CREATE INDEX incident_closed ON qflare.incident (changed_at) WHERE state = 'closed';

CREATE POLICY incident_dropped ON qflare.incident FOR DELETE TO qflare_maintenance USING (true);
CREATE POLICY response_dropped ON qflare.response FOR DELETE TO qflare_maintenance USING (true);
GRANT DELETE ON qflare.incident, qflare.response TO qflare_maintenance;

GRANT CREATE ON SCHEMA qflare TO qflare_maintenance;
SET LOCAL ROLE qflare_maintenance;

-- drop_finished: up to p_limit responses that are finished, and as many closed incidents that no response is to, of every
-- tenant, which nothing has changed for p_keep_s seconds.  What can be undone or confirmed, and what is open, stays; and
-- so does a response while its incident is not closed, as the one mark that its rule has responded.
CREATE FUNCTION qflare.drop_finished(p_keep_s bigint, p_limit bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_before CONSTANT timestamptz := clock_timestamp() - make_interval(secs => p_keep_s);
    v_found  bigint;
    v_more   bigint;
BEGIN
    DELETE FROM qflare.response AS r
     USING (SELECT o.response_id, o.tenant_id FROM qflare.response AS o
             WHERE o.changed_at < v_before
               AND (o.state IN ('undone', 'dismissed')
                    OR (o.state = 'proposed' AND o.expires_at < v_before)
                    OR (o.state = 'applied'
                        AND (o.action IN ('rekey', 'rotate-device', 'revoke', 'turn', 'rotate-identity', 'notify')
                             OR o.until_at < v_before)))
               AND (o.incident_id IS NULL
                    OR EXISTS (SELECT FROM qflare.incident AS i
                                WHERE i.incident_id = o.incident_id AND i.tenant_id = o.tenant_id AND i.state = 'closed'))
             ORDER BY o.changed_at LIMIT p_limit FOR UPDATE OF o SKIP LOCKED) AS old
     WHERE r.response_id = old.response_id AND r.tenant_id = old.tenant_id;
    GET DIAGNOSTICS v_found = ROW_COUNT;
    DELETE FROM qflare.incident AS i
     USING (SELECT o.incident_id, o.tenant_id FROM qflare.incident AS o
             WHERE o.state = 'closed' AND o.changed_at < v_before
               AND NOT EXISTS (SELECT FROM qflare.response AS r
                                WHERE r.incident_id = o.incident_id AND r.tenant_id = o.tenant_id)
             ORDER BY o.changed_at LIMIT p_limit FOR UPDATE SKIP LOCKED) AS old
     WHERE i.incident_id = old.incident_id AND i.tenant_id = old.tenant_id;
    GET DIAGNOSTICS v_more = ROW_COUNT;
    RETURN v_found + v_more;
END
$$;

SET LOCAL ROLE qflare_owner;
REVOKE CREATE ON SCHEMA qflare FROM qflare_maintenance;

RESET ROLE;
REVOKE ALL ON FUNCTION qflare.drop_finished(bigint, bigint) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qflare.drop_finished(bigint, bigint) TO qflare_app;
