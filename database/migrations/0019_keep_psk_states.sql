-- Psks carry states of NIST SP 800-57 with times and reasons, as other keys do, and a session says why it ended.
-- Workers of version 18 go on: triggers keep what they do not know of, and the columns that are new may be null.

SET LOCAL ROLE qflare_owner;

-- Why a session ended ----------------------------------------------------------------------------------------------------
ALTER TABLE qflare.session ADD COLUMN end_reason text;

-- Say why a session ends, in the moment in which it does: what the transaction says in qflare.reason, else what the
-- state itself tells.  Afterwards nothing changes it.
CREATE OR REPLACE FUNCTION qflare.say_why_session_ended() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = NEW.state THEN
        RAISE EXCEPTION 'why a session ended is said once'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'session_end_reason_stands', TABLE = 'session';
    END IF;
    NEW.end_reason := CASE NEW.state
        WHEN 'superseded' THEN 'newer sessions of its device took its place'
        ELSE coalesce(nullif(current_setting('qflare.reason', true), ''), 'no reason given') END;
    IF octet_length(NEW.end_reason) > 1000 THEN
        RAISE EXCEPTION 'the reason for the end of a session is too long'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'session_end_reason_size', TABLE = 'session';
    END IF;
    RETURN NEW;
END
$$;
-- Behind WHEN: what records and rekeys change in a live session's row costs no call.
CREATE OR REPLACE TRIGGER session_state_told BEFORE UPDATE OF state, end_reason ON qflare.session
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.end_reason IS DISTINCT FROM NEW.end_reason)
    EXECUTE FUNCTION qflare.say_why_session_ended();

-- end_sessions: as before, and say why; empty says nothing.
CREATE OR REPLACE FUNCTION qflare.end_sessions(
    p_tenant uuid, p_sids uuid[], p_state text, p_types text[], p_severities text[], p_devices text[],
    p_data bytea[], p_leaves bytea[], p_occurred_ms bigint[], p_reason text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_reason CONSTANT text := set_config('qflare.reason', p_reason, true);
BEGIN
    RETURN qflare.end_sessions(p_tenant, p_sids, p_state, p_types, p_severities, p_devices, p_data, p_leaves,
                               p_occurred_ms);
END
$$;

-- tell_sessions: the terms of sessions, and when and why they ended; find_sessions without that, for workers of
-- version 18.  One whose last bucket is over is expired.
CREATE OR REPLACE FUNCTION qflare.tell_sessions(p_tenant uuid, p_sids uuid[])
RETURNS TABLE (sid uuid, device_id text, ref bytea, key_version bigint, form smallint, start_bucket bigint,
               last_bucket bigint, policy bigint, state text, epoch bigint, created_at timestamptz, log_index bigint,
               ended_at timestamptz, end_reason text)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
BEGIN
    RETURN QUERY
    SELECT s.sid, d.device_id, s.ref::bytea, s.key_version::bigint, s.form::smallint, s.start_bucket, s.last_bucket,
           s.policy::bigint,
           CASE WHEN s.state = 'live' AND s.last_bucket < (SELECT m.expired_before FROM qflare.bucket_mark AS m)
                THEN 'expired' ELSE s.state::text END,
           s.epoch::bigint, s.created_at, s.log_index::bigint, s.ended_at, s.end_reason
      FROM qflare.session AS s
     CROSS JOIN LATERAL (
           SELECT e.device_id FROM qflare.device AS e WHERE e.tenant_id = p_tenant AND e.ref = s.ref LIMIT 1) AS d
     WHERE s.tenant_id = p_tenant
       AND s.sid = ANY (p_sids);
END
$$;

-- Lives of psks ----------------------------------------------------------------------------------------------------------

-- The life of each psk a device had, without the psk: a row stays when another takes its place.  Written by triggers
-- alone, read by the listing of a device's keys.
CREATE TABLE IF NOT EXISTS qflare.device_psk (
    tenant_id   uuid        NOT NULL,
    ref         bytea       NOT NULL,
    psk_version bigint      NOT NULL,
    state       text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT device_psk_pkey PRIMARY KEY (ref, psk_version, tenant_id),
    CONSTRAINT device_psk_of_device FOREIGN KEY (ref, tenant_id) REFERENCES qflare.device (ref, tenant_id),
    CONSTRAINT device_psk_version_range CHECK (psk_version >= 0),
    CONSTRAINT device_psk_state_known
        CHECK (state IN ('pre-active', 'active', 'suspended', 'deactivated', 'compromised', 'destroyed'))
);

-- Every move of a psk, as device_key_move has them.
CREATE TABLE IF NOT EXISTS qflare.device_psk_move (
    tenant_id   uuid        NOT NULL,
    ref         bytea       NOT NULL,
    psk_version bigint      NOT NULL,
    move_index  integer     NOT NULL,
    from_state  text        NOT NULL,
    to_state    text        NOT NULL,
    reason      text        NOT NULL,
    moved_at    timestamptz NOT NULL,
    CONSTRAINT device_psk_move_pkey PRIMARY KEY (ref, psk_version, move_index, tenant_id),
    CONSTRAINT device_psk_move_index_range CHECK (move_index >= 0),
    CONSTRAINT device_psk_move_reason_size CHECK (octet_length(reason) <= 1000)
);

DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['device_psk', 'device_psk_move'] LOOP
        EXECUTE format('ALTER TABLE qflare.%I ENABLE ROW LEVEL SECURITY', v_table);
        EXECUTE format('ALTER TABLE qflare.%I FORCE ROW LEVEL SECURITY', v_table);
        EXECUTE format(
            $policy$CREATE POLICY %I ON qflare.%I TO qflare_app
                USING (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))
                WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))$policy$,
            v_table || '_of_tenant', v_table);
        EXECUTE format('CREATE POLICY %I ON qflare.%I FOR SELECT TO qflare_auditor USING (true)',
                       v_table || '_for_auditor', v_table);
    END LOOP;
END
$$;
GRANT SELECT ON qflare.device_psk, qflare.device_psk_move TO qflare_auditor;
GRANT SELECT, INSERT, UPDATE ON qflare.device_psk TO qflare_app;
GRANT SELECT, INSERT ON qflare.device_psk_move TO qflare_app;

CREATE OR REPLACE TRIGGER device_psk_state_first BEFORE INSERT ON qflare.device_psk FOR EACH ROW
    WHEN (NEW.state NOT IN ('pre-active', 'active')) EXECUTE FUNCTION qflare.refuse_illegal_move('device_psk', 'key');
CREATE OR REPLACE TRIGGER device_psk_state_move BEFORE UPDATE OF state ON qflare.device_psk FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION qflare.refuse_illegal_move('device_psk', 'key');

-- Keep a move of a psk; the device's row is locked by whoever moves it.
CREATE OR REPLACE FUNCTION qflare.keep_device_psk_move() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO qflare.device_psk_move (tenant_id, ref, psk_version, move_index, from_state, to_state, reason, moved_at)
    SELECT NEW.tenant_id, NEW.ref, NEW.psk_version, count(*), OLD.state, NEW.state,
           qflare.reason_of(OLD.state, NEW.state), clock_timestamp()
      FROM qflare.device_psk_move AS m
     WHERE m.ref = NEW.ref AND m.psk_version = NEW.psk_version AND m.tenant_id = NEW.tenant_id;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER device_psk_moved AFTER UPDATE OF state ON qflare.device_psk
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION qflare.keep_device_psk_move();

-- The psk of a device changes, or its device's state: the psks' lives follow.  One that is replaced or removed is
-- deactivated, not destroyed: its sealed form may lie in a backup, and opens under KEK_L.
CREATE OR REPLACE FUNCTION qflare.keep_device_psk() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_said CONSTANT text := coalesce(current_setting('qflare.reason', true), '');
BEGIN
    IF OLD.sealed_psk IS DISTINCT FROM NEW.sealed_psk OR OLD.psk_version <> NEW.psk_version THEN
        IF v_said = '' THEN
            PERFORM set_config('qflare.reason', CASE WHEN NEW.sealed_psk IS NULL THEN 'removed'
                                                     ELSE 'followed by psk version ' || NEW.psk_version END, true);
        END IF;
        UPDATE qflare.device_psk AS p
           SET state = 'deactivated'
         WHERE p.tenant_id = NEW.tenant_id AND p.ref = NEW.ref
           AND (p.psk_version <> NEW.psk_version OR NEW.sealed_psk IS NULL)
           AND p.state IN ('pre-active', 'active', 'suspended');
        IF NEW.sealed_psk IS NOT NULL THEN
            INSERT INTO qflare.device_psk (tenant_id, ref, psk_version, state)
            VALUES (NEW.tenant_id, NEW.ref, NEW.psk_version, 'active') ON CONFLICT DO NOTHING;
            -- In the state of its device, if that is none in which a key begins.
            PERFORM set_config('qflare.reason', 'its device is ' || NEW.state, true);
            UPDATE qflare.device_psk AS p
               SET state = NEW.state
             WHERE p.tenant_id = NEW.tenant_id AND p.ref = NEW.ref AND p.psk_version = NEW.psk_version
               AND p.state = 'active' AND NEW.state IN ('suspended', 'deactivated', 'compromised');
        END IF;
        PERFORM set_config('qflare.reason', v_said, true);
    END IF;
    IF OLD.state IS DISTINCT FROM NEW.state THEN
        -- As the device's other keys.
        UPDATE qflare.device_psk AS p
           SET state = NEW.state
         WHERE p.tenant_id = NEW.tenant_id AND p.ref = NEW.ref
           AND p.state <> NEW.state AND p.state <> 'destroyed'
           AND CASE NEW.state
                   WHEN 'active'    THEN p.state = 'suspended'
                   WHEN 'suspended' THEN p.state = 'active'
                   WHEN 'destroyed' THEN p.state IN ('deactivated', 'compromised')
                   ELSE p.state <> 'compromised' END;
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER device_psk_kept AFTER UPDATE OF state, sealed_psk, psk_version ON qflare.device
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.sealed_psk IS DISTINCT FROM NEW.sealed_psk
                       OR OLD.psk_version IS DISTINCT FROM NEW.psk_version)
    EXECUTE FUNCTION qflare.keep_device_psk();

-- The psks that stand: in their devices' states.  The owner sees no tenant's rows: the auditor reads, the
-- application's role writes inside each tenant.
DO $$
DECLARE
    v_tenants uuid[];
    v_tenant  uuid;
BEGIN
    PERFORM set_config('role', 'qflare_auditor', true);
    SELECT array_agg(t.tenant_id) INTO v_tenants FROM qflare.tenant AS t;
    PERFORM set_config('role', 'qflare_app', true);
    PERFORM set_config('qflare.reason', 'as its device', true);
    FOREACH v_tenant IN ARRAY v_tenants LOOP
        PERFORM set_config('qflare.tenant', v_tenant::text, true);
        INSERT INTO qflare.device_psk (tenant_id, ref, psk_version, state)
        SELECT d.tenant_id, d.ref, d.psk_version, 'active'
          FROM qflare.device AS d
         WHERE d.tenant_id = v_tenant AND d.sealed_psk IS NOT NULL;
        UPDATE qflare.device_psk AS p
           SET state = d.state
          FROM qflare.device AS d
         WHERE p.tenant_id = v_tenant AND d.tenant_id = v_tenant AND d.ref = p.ref
           AND d.state IN ('suspended', 'deactivated', 'compromised');
    END LOOP;
    PERFORM set_config('qflare.reason', '', true);
    PERFORM set_config('qflare.tenant', '', true);
    PERFORM set_config('role', 'qflare_owner', true);
END
$$;

RESET ROLE;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA qflare FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA qflare TO qflare_app;
