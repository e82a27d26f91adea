-- Responses to incidents: what is proposed, who wants it, what was done, and what puts it back.
--
-- Safe while the version before still runs: it neither reads nor writes what is new here, and of the function that
-- guards states the states it knows stay as they are.

SET LOCAL ROLE qflare_owner;

-- What is done about an incident: proposed, wanted by operators, carried out in the transaction that notes it, undone.
-- Written by operators and by the workers' playbooks, read by both and, of limits, by every worker.
CREATE TABLE qflare.response (
    tenant_id     uuid        NOT NULL,
    response_id   uuid        NOT NULL,
    incident_id   uuid,
    action        text        NOT NULL,
    ref           bytea,
    device_id     text,
    source        text,
    rule          text,
    is_automatic  boolean     NOT NULL,
    proven        bigint      NOT NULL,
    needs_two     boolean     NOT NULL,
    first_by      text        COLLATE "C",
    second_by     text        COLLATE "C",
    reason        text        NOT NULL,
    state         text        NOT NULL DEFAULT 'proposed',
    before        text        NOT NULL DEFAULT '',
    changed       bigint      NOT NULL DEFAULT 0,
    per_minute    bigint,
    lasts_s       bigint,
    until_at      timestamptz,
    asked_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_at    timestamptz,          -- stays when it is undone
    expires_at    timestamptz NOT NULL DEFAULT clock_timestamp() + interval '1 day',
    ended_by      text        COLLATE "C",
    ended_because text        NOT NULL DEFAULT '',
    CONSTRAINT response_pkey PRIMARY KEY (response_id, tenant_id),
    CONSTRAINT response_of_tenant FOREIGN KEY (tenant_id) REFERENCES qflare.tenant (tenant_id),
    CONSTRAINT response_of_incident FOREIGN KEY (incident_id, tenant_id)
        REFERENCES qflare.incident (incident_id, tenant_id),
    CONSTRAINT response_first_by_operator FOREIGN KEY (first_by, tenant_id)
        REFERENCES qflare.operator (name, tenant_id),
    CONSTRAINT response_second_by_operator FOREIGN KEY (second_by, tenant_id)
        REFERENCES qflare.operator (name, tenant_id),
    CONSTRAINT response_ended_by_operator FOREIGN KEY (ended_by, tenant_id)
        REFERENCES qflare.operator (name, tenant_id),
    CONSTRAINT response_action_known CHECK (action IN (
        'quarantine', 'lift', 'rekey', 'rotate-device', 'revoke', 'turn', 'rotate-identity', 'limit-device',
        'limit-tenant', 'limit-source', 'notify')),
    CONSTRAINT response_target_of_action CHECK (
        (action IN ('quarantine', 'lift', 'rekey', 'rotate-device', 'revoke', 'limit-device'))
            = (ref IS NOT NULL AND device_id IS NOT NULL)
        AND (ref IS NULL) = (device_id IS NULL)
        AND (action = 'limit-source') = (source IS NOT NULL)),
    CONSTRAINT response_ref_size CHECK (octet_length(ref) = 32),
    CONSTRAINT response_device_id_size CHECK (octet_length(device_id) BETWEEN 1 AND 255),
    CONSTRAINT response_source_size CHECK (octet_length(source) BETWEEN 1 AND 64),
    CONSTRAINT response_rule_size CHECK (octet_length(rule) BETWEEN 1 AND 64),
    CONSTRAINT response_reason_size CHECK (octet_length(reason) BETWEEN 1 AND 500),
    CONSTRAINT response_ended_because_size CHECK (octet_length(ended_because) <= 500),
    CONSTRAINT response_before_size CHECK (octet_length(before) <= 100),
    CONSTRAINT response_changed_range CHECK (changed >= 0),
    CONSTRAINT response_limit_of_action CHECK ((action LIKE 'limit-%') = (per_minute IS NOT NULL)),
    CONSTRAINT response_per_minute_range CHECK (per_minute BETWEEN 0 AND 1000000),
    CONSTRAINT response_lasts_range CHECK (lasts_s BETWEEN 60 AND 31622400),
    CONSTRAINT response_state_known CHECK (state IN ('proposed', 'begun', 'applied', 'undone', 'dismissed')),
    -- One person is never two.
    CONSTRAINT response_two_persons CHECK (second_by IS NULL OR (first_by IS NOT NULL AND first_by <> second_by)),
    -- What nothing takes back.
    CONSTRAINT response_destructive_needs_two CHECK (
        needs_two OR action NOT IN ('revoke', 'turn', 'rotate-identity')),
    -- Nothing is done that nobody wanted.
    CONSTRAINT response_wanted CHECK (
        state IN ('proposed', 'dismissed')
        OR (is_automatic AND NOT needs_two)
        OR (first_by IS NOT NULL AND (second_by IS NOT NULL OR NOT needs_two))),
    CONSTRAINT response_automatic_of_rule CHECK (NOT is_automatic OR rule IS NOT NULL),
    -- A rule names no device by itself on the word of whoever sent something in its name.
    CONSTRAINT response_automatic_proven CHECK (NOT is_automatic OR ref IS NULL OR proven >= 1),
    CONSTRAINT response_proven_range CHECK (proven >= 0)
);

-- Read by a tenant's listing of its responses, the last asked for first.
CREATE INDEX response_by_time ON qflare.response (tenant_id, asked_at);
-- Read with an incident.
CREATE INDEX response_by_incident ON qflare.response (incident_id, tenant_id);
-- Read when a device is to be shut out: how many were within the hour, and how many stand.
CREATE INDEX response_shuts_out ON qflare.response (tenant_id, applied_at) WHERE action IN ('quarantine', 'revoke');
-- Read by every worker: the limits that stand.
CREATE INDEX response_limits ON qflare.response (action) WHERE state = 'applied' AND per_minute IS NOT NULL;

ALTER TABLE qflare.response ENABLE ROW LEVEL SECURITY;
ALTER TABLE qflare.response FORCE ROW LEVEL SECURITY;
CREATE POLICY response_of_tenant ON qflare.response TO qflare_app
    USING (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid));
CREATE POLICY response_for_auditor ON qflare.response FOR SELECT TO qflare_auditor USING (true);
CREATE POLICY response_for_maintenance ON qflare.response FOR SELECT TO qflare_maintenance USING (true);
GRANT SELECT ON qflare.response TO qflare_auditor, qflare_maintenance;
-- What was asked for stays as it was asked; what became of it is added.
GRANT SELECT, INSERT ON qflare.response TO qflare_app;
GRANT UPDATE (needs_two, first_by, second_by, state, before, changed, until_at, changed_at, applied_at, ended_by,
              ended_because) ON qflare.response TO qflare_app;

-- Refuse a first state or a move that a table's states do not allow; the table has a column state.
-- The trigger's arguments: the table's name, for the constraint's (a partition has another), and which states it has:
-- 'key' those of NIST SP 800-57, 'session', 'token' and 'response' ours.
CREATE OR REPLACE FUNCTION qflare.refuse_illegal_move() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_table CONSTANT text   := coalesce(TG_ARGV[0], TG_TABLE_NAME);
    v_first CONSTANT text[] := CASE coalesce(TG_ARGV[1], 'key')
        WHEN 'key'     THEN ARRAY['pre-active', 'active']
        WHEN 'session' THEN ARRAY['live']
        WHEN 'token'   THEN ARRAY['active']
        WHEN 'response' THEN ARRAY['proposed'] END;
    v_moves CONSTANT text[] := CASE coalesce(TG_ARGV[1], 'key')
        WHEN 'key' THEN ARRAY[
            'pre-active>active', 'pre-active>suspended', 'pre-active>deactivated', 'pre-active>compromised',
            'pre-active>destroyed', 'active>suspended', 'active>deactivated', 'active>compromised',
            'suspended>active', 'suspended>deactivated', 'suspended>compromised',
            'deactivated>compromised', 'deactivated>destroyed', 'compromised>destroyed']
        WHEN 'session' THEN ARRAY['live>ended', 'live>revoked', 'live>superseded']
        WHEN 'token'   THEN ARRAY['active>used', 'active>revoked']
        WHEN 'response' THEN ARRAY[
            'proposed>begun', 'proposed>applied', 'proposed>dismissed', 'begun>applied', 'begun>dismissed',
            'applied>undone'] END;
BEGIN
    IF TG_OP = 'INSERT' AND NOT NEW.state = ANY (v_first) THEN
        RAISE EXCEPTION 'the % cannot begin as %', replace(v_table, '_', ' '), NEW.state
            USING ERRCODE = 'check_violation', CONSTRAINT = v_table || '_state_first', TABLE = v_table;
    END IF;
    IF TG_OP = 'UPDATE' AND NOT (OLD.state || '>' || NEW.state) = ANY (v_moves) THEN
        RAISE EXCEPTION 'the % cannot go from % to %', replace(v_table, '_', ' '), OLD.state, NEW.state
            USING ERRCODE = 'check_violation', CONSTRAINT = v_table || '_state_move', TABLE = v_table;
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER response_state_first BEFORE INSERT ON qflare.response FOR EACH ROW WHEN (NEW.state <> 'proposed')
    EXECUTE FUNCTION qflare.refuse_illegal_move('response', 'response');
CREATE TRIGGER response_state_move BEFORE UPDATE OF state ON qflare.response FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION qflare.refuse_illegal_move('response', 'response');

GRANT CREATE ON SCHEMA qflare TO qflare_maintenance;
SET LOCAL ROLE qflare_maintenance;

-- list_limits: the limits of every tenant that stand and have not ended, for the workers that keep them.
CREATE FUNCTION qflare.list_limits()
RETURNS TABLE (tenant_id uuid, response_id uuid, action text, ref bytea, source text, per_minute bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT r.tenant_id, r.response_id, r.action, r.ref, r.source, r.per_minute
      FROM qflare.response AS r
     WHERE r.state = 'applied' AND r.per_minute IS NOT NULL
       AND (r.until_at IS NULL OR r.until_at > clock_timestamp())
     ORDER BY r.applied_at DESC LIMIT 10000;
END
$$;

SET LOCAL ROLE qflare_owner;
REVOKE CREATE ON SCHEMA qflare FROM qflare_maintenance;

RESET ROLE;
REVOKE ALL ON FUNCTION qflare.list_limits() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qflare.list_limits() TO qflare_app;
