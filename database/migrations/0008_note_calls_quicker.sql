-- Remembering a call looks into the partition before only while that may matter, and enters no tenant again.
-- Workers of version 7 go on: the function does what it did.

SET LOCAL ROLE qflare_owner;

-- note_calls: remember calls that the caller's transaction carries out, inside a tenant that it entered; the last thing
-- it does, after its events: under the log's lock no other attempt stands between the look and the row.
-- p_outcomes are added to p_base, which is an index of the log where a call is about an event.
CREATE OR REPLACE FUNCTION qflare.note_calls(
    p_tenant uuid, p_calls uuid[], p_kind text, p_base bigint, p_outcomes bigint[])
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_now   CONSTANT bigint  := floor(extract(epoch FROM clock_timestamp()));
    v_noted bigint;
    v_stood boolean := false;
BEGIN
    INSERT INTO qflare.call (tenant_id, call_id, slot, kind, outcome)
    SELECT p_tenant, n.call_id, v_now / 43200 % 4, p_kind, p_base + n.outcome
      FROM unnest(p_calls, p_outcomes) AS n (call_id, outcome)
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS v_noted = ROW_COUNT;
    -- An attempt that is still under way may have begun in the partition before; none is as old as five minutes.
    IF v_now % 43200 < 300 THEN
        v_stood := EXISTS (SELECT FROM unnest(p_calls) AS n (call_id)
                            CROSS JOIN LATERAL (
                                  SELECT e.call_id FROM qflare.call AS e
                                   WHERE e.slot = (v_now / 43200 + 3) % 4 AND e.call_id = n.call_id
                                     AND e.tenant_id = p_tenant LIMIT 1) AS k);
    END IF;
    IF v_stood OR v_noted <> cardinality(p_calls) THEN
        RAISE EXCEPTION 'a call was carried out before'
            USING ERRCODE = 'unique_violation', CONSTRAINT = 'call_once', TABLE = 'call';
    END IF;
    RETURN true;
END
$$;

RESET ROLE;
