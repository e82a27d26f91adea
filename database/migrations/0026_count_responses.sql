-- Figures of incidents and responses for metrics, of all tenants together.
--
-- Safe while the version before still runs: nothing that it uses is changed.

SET LOCAL ROLE qflare_owner;

-- Read by metrics: the responses that changed within the last day.
CREATE INDEX response_by_change ON qflare.response (changed_at);
-- Read by metrics: the proposals that wait for people.
CREATE INDEX response_waiting ON qflare.response (asked_at) WHERE state = 'proposed';

CREATE POLICY incident_for_maintenance ON qflare.incident FOR SELECT TO qflare_maintenance USING (true);
GRANT SELECT ON qflare.incident TO qflare_maintenance;

GRANT CREATE ON SCHEMA qflare TO qflare_maintenance;
SET LOCAL ROLE qflare_maintenance;

-- count_responses: what is told in metrics of all tenants' incidents and responses, without saying whose they are:
-- incidents that are not closed by severity and state, responses that changed within the last day by action and state,
-- and proposals that still may be confirmed by the operator that they wait for, with the oldest's time.
CREATE FUNCTION qflare.count_responses()
RETURNS TABLE (what text, name text, state text, found bigint, oldest_at timestamptz)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT 'incident', i.severity, i.state, count(*), min(i.first_seen_at)
      FROM qflare.incident AS i WHERE i.state <> 'closed' GROUP BY i.severity, i.state
     UNION ALL
    SELECT 'response', r.action, r.state, count(*), min(r.changed_at)
      FROM qflare.response AS r WHERE r.changed_at > clock_timestamp() - interval '1 day' GROUP BY r.action, r.state
     UNION ALL
    SELECT 'waiting', CASE WHEN r.first_by IS NULL THEN 'first' ELSE 'second' END, 'proposed', count(*), min(r.asked_at)
      FROM qflare.response AS r
     WHERE r.state = 'proposed' AND r.expires_at > clock_timestamp()
       AND (r.first_by IS NULL OR (r.needs_two AND r.second_by IS NULL))
     GROUP BY r.first_by IS NULL;
END
$$;

SET LOCAL ROLE qflare_owner;
REVOKE CREATE ON SCHEMA qflare FROM qflare_maintenance;

RESET ROLE;
REVOKE ALL ON FUNCTION qflare.count_responses() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qflare.count_responses() TO qflare_app;
