-- A reply is taken by its session and its request, not by the request's id alone.
-- Workers of version 12 go on: the function takes and returns what it did.

SET LOCAL ROLE qflare_owner;

-- take_reply_keys: delete the keys of replies that are taken now, each once, of live sessions and in time (R6);
-- taken[i] says so.
CREATE OR REPLACE FUNCTION qflare.take_reply_keys(
    p_tenant uuid, p_sids uuid[], p_request_ids uuid[], p_direction smallint, p_bucket bigint, p_now timestamptz,
    OUT taken boolean[])
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_live    uuid[];
    v_sids    uuid[];        -- sessions and requests whose keys are gone now
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
        RETURNING r.sid, r.request_id)
    SELECT array_agg(g.sid), array_agg(g.request_id) INTO v_sids, v_taken FROM gone AS g;
    -- By session and request: devices choose ids, and one may choose that of another's request.
    SELECT array_agg(g.sid IS NOT NULL AND w.turn = 1 ORDER BY w.place) INTO taken
      FROM (SELECT u.*, row_number() OVER (PARTITION BY u.sid, u.request_id ORDER BY u.place) AS turn
              FROM unnest(p_sids, p_request_ids) WITH ORDINALITY AS u (sid, request_id, place)) AS w
      LEFT JOIN unnest(v_sids, v_taken) AS g (sid, request_id) ON g.sid = w.sid AND g.request_id = w.request_id;
    IF p_direction = 1 AND v_taken IS NOT NULL THEN
        UPDATE qflare.session AS s
           SET carried_at = p_now
         WHERE s.tenant_id = p_tenant AND s.sid = ANY (v_sids) AND s.carried_at IS NULL;
    END IF;
END
$$;

RESET ROLE;
