-- An erased device's name goes out of incidents and responses too.
--
-- Safe while the version before still runs: it erases the log alone, as before.

SET LOCAL ROLE qflare_owner;

CREATE POLICY incident_erased ON qflare.incident FOR UPDATE TO qflare_maintenance USING (true) WITH CHECK (true);
CREATE POLICY response_erased ON qflare.response FOR UPDATE TO qflare_maintenance USING (true) WITH CHECK (true);
GRANT UPDATE (device_id, note, evidence) ON qflare.incident TO qflare_maintenance;
GRANT UPDATE (device_id, reason, ended_because) ON qflare.response TO qflare_maintenance;

GRANT CREATE ON SCHEMA qflare TO qflare_maintenance;
SET LOCAL ROLE qflare_maintenance;

-- erase_mentions: in the tenant's incidents and responses put an alias where a device's name stands, and take out what was
-- said about it there; p_escaped is the name as JSON in ASCII has it.  Without p_alias count what would be changed.
CREATE FUNCTION qflare.erase_mentions(p_tenant uuid, p_name text, p_escaped text, p_alias text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_word  CONSTANT text := '(?<![[:alnum:]_]|[^\u0001-\u007f])(?:' || regexp_replace(p_name, '([^[:alnum:]])', '\\\1', 'g') || '|'
                             || regexp_replace(p_escaped, '([^[:alnum:]])', '\\\1', 'g') || ')(?![[:alnum:]_]|\\u|[^\u0001-\u007f])';
    v_found bigint;
    v_more  bigint;
BEGIN
    IF p_tenant IS DISTINCT FROM NULLIF(current_setting('qflare.tenant', true), '')::uuid THEN
        RAISE EXCEPTION 'another tenant' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF p_alias IS NULL THEN
        SELECT count(*) INTO v_found FROM qflare.incident AS i
         WHERE i.tenant_id = p_tenant
           AND (i.device_id = p_name OR i.note ~ v_word OR convert_from(i.evidence, 'UTF8') ~ v_word);
        SELECT count(*) INTO v_more FROM qflare.response AS r
         WHERE r.tenant_id = p_tenant
           AND (r.device_id = p_name OR r.reason ~ v_word OR r.ended_because ~ v_word);
        RETURN v_found + v_more;
    END IF;
    UPDATE qflare.response AS r
       SET reason        = CASE WHEN r.device_id = p_name OR r.reason ~ v_word THEN 'erased' ELSE r.reason END,
           ended_because = CASE WHEN r.ended_because <> '' AND (r.device_id = p_name OR r.ended_because ~ v_word)
                                THEN 'erased' ELSE r.ended_because END,
           device_id     = CASE WHEN r.device_id = p_name THEN p_alias ELSE r.device_id END
     WHERE r.tenant_id = p_tenant
       AND (r.device_id = p_name OR r.reason ~ v_word OR r.ended_because ~ v_word);
    GET DIAGNOSTICS v_found = ROW_COUNT;
    UPDATE qflare.incident AS i
       SET note      = CASE WHEN i.note <> '' AND (i.device_id = p_name OR i.note ~ v_word) THEN 'erased' ELSE i.note END,
           evidence  = CASE WHEN i.device_id = p_name OR convert_from(i.evidence, 'UTF8') ~ v_word
                            THEN convert_to('{"erased":true}', 'UTF8') ELSE i.evidence END,
           device_id = CASE WHEN i.device_id = p_name THEN p_alias ELSE i.device_id END
     WHERE i.tenant_id = p_tenant
       AND (i.device_id = p_name OR i.note ~ v_word OR convert_from(i.evidence, 'UTF8') ~ v_word);
    GET DIAGNOSTICS v_more = ROW_COUNT;
    RETURN v_found + v_more;
END
$$;

SET LOCAL ROLE qflare_owner;
REVOKE CREATE ON SCHEMA qflare FROM qflare_maintenance;

RESET ROLE;
REVOKE ALL ON FUNCTION qflare.erase_mentions(uuid, text, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qflare.erase_mentions(uuid, text, text, text) TO qflare_app;
