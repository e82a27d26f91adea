-- States of every key with times and reasons, changes that workers hear of, devices counted as they come.
-- The previous version goes on working beside it: what it calls keeps its parameters and results.  Writers of the
-- roster wait while devices are counted, once; about a second for a million.

-- Nobody registers, moves or rotates a device until the end: then the counts below are exact.
LOCK TABLE qflare.device, qflare.device_key, qflare.enrolment_token, qflare.bucket_key,
           qflare.bucket_mark IN SHARE ROW EXCLUSIVE MODE;

-- Tables ------------------------------------------------------------------------------------------------------------

ALTER TABLE qflare.enrolment_token
    ADD COLUMN state            text        NOT NULL DEFAULT 'active',
    ADD COLUMN state_reason     text        NOT NULL DEFAULT '',
    ADD COLUMN state_changed_at timestamptz;

-- How many devices a tenant has in each state, and how many keys they had: what statistics read instead of counting.
CREATE TABLE IF NOT EXISTS qflare.device_count (
    tenant_id   uuid   NOT NULL,
    pre_active  bigint NOT NULL,
    active      bigint NOT NULL,
    suspended   bigint NOT NULL,
    deactivated bigint NOT NULL,
    compromised bigint NOT NULL,
    destroyed   bigint NOT NULL,
    device_keys bigint NOT NULL,
    CONSTRAINT device_count_pkey PRIMARY KEY (tenant_id),
    CONSTRAINT device_count_range
        CHECK (least(pre_active, active, suspended, deactivated, compromised, destroyed, device_keys) >= 0)
);

-- Every move of a device's key from one state to another, when and why; a key's first state is since its created_at.
-- Written by a trigger, read by the listing of a device's keys.
CREATE TABLE IF NOT EXISTS qflare.device_key_move (
    tenant_id   uuid        NOT NULL,
    ref         bytea       NOT NULL,
    key_version bigint      NOT NULL,
    kind        text        NOT NULL,
    move_index  integer     NOT NULL,
    from_state  text        NOT NULL,
    to_state    text        NOT NULL,
    reason      text        NOT NULL,
    moved_at    timestamptz NOT NULL,
    CONSTRAINT device_key_move_pkey PRIMARY KEY (ref, key_version, kind, move_index, tenant_id),
    CONSTRAINT device_key_move_index_range CHECK (move_index >= 0),
    CONSTRAINT device_key_move_reason_size CHECK (octet_length(reason) <= 1000)
);

-- The life of each bucket's key pair (A3) without the key: a row stays when the sealed key goes.  Written by triggers
-- alone, read by listings.
CREATE TABLE IF NOT EXISTS qflare.bucket_record (
    fingerprint bytea       NOT NULL,   -- SHA-256 of the announcement: a bucket whose KEK was lost has two pairs
    bucket      bigint      NOT NULL,
    state       text        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT bucket_record_pkey PRIMARY KEY (fingerprint, bucket),
    CONSTRAINT bucket_record_fingerprint_size CHECK (octet_length(fingerprint) = 32),
    CONSTRAINT bucket_record_bucket_range CHECK (bucket >= 0),
    CONSTRAINT bucket_record_state_known
        CHECK (state IN ('pre-active', 'active', 'suspended', 'deactivated', 'compromised', 'destroyed'))
);

-- Every move of a bucket's key, as device_key_move has them.
CREATE TABLE IF NOT EXISTS qflare.bucket_record_move (
    fingerprint bytea       NOT NULL,
    bucket      bigint      NOT NULL,
    move_index  integer     NOT NULL,
    from_state  text        NOT NULL,
    to_state    text        NOT NULL,
    reason      text        NOT NULL,
    moved_at    timestamptz NOT NULL,
    CONSTRAINT bucket_record_move_pkey PRIMARY KEY (fingerprint, bucket, move_index),
    CONSTRAINT bucket_record_move_of_record
        FOREIGN KEY (fingerprint, bucket) REFERENCES qflare.bucket_record (fingerprint, bucket),
    CONSTRAINT bucket_record_move_index_range CHECK (move_index >= 0),
    CONSTRAINT bucket_record_move_reason_size CHECK (octet_length(reason) <= 1000)
);

-- Every move of a key of the server's identity, as device_key_move has them.
CREATE TABLE IF NOT EXISTS qflare.server_key_move (
    key_id     bytea       NOT NULL,
    move_index integer     NOT NULL,
    from_state text        NOT NULL,
    to_state   text        NOT NULL,
    reason     text        NOT NULL,
    moved_at   timestamptz NOT NULL,
    CONSTRAINT server_key_move_pkey PRIMARY KEY (key_id, move_index),
    CONSTRAINT server_key_move_index_range CHECK (move_index >= 0),
    CONSTRAINT server_key_move_reason_size CHECK (octet_length(reason) <= 1000)
);

-- Devices and sessions that a worker must not remember as they were; no secret.  Written by triggers in the
-- transaction of the change, read by every worker's polling through list_changes, and deleted after a day.
CREATE TABLE IF NOT EXISTS qflare.change (
    tenant_id  uuid        NOT NULL,
    xid        xid8        NOT NULL DEFAULT pg_current_xact_id(),
    change_id  uuid        NOT NULL DEFAULT gen_random_uuid(),
    ref        bytea,
    sid        uuid,
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT change_pkey PRIMARY KEY (xid, change_id, tenant_id),
    CONSTRAINT change_of_one CHECK ((ref IS NULL) <> (sid IS NULL))
);

-- Read by a tenant's listing of its tokens.
CREATE INDEX IF NOT EXISTS enrolment_token_by_tenant ON qflare.enrolment_token (tenant_id, token_id);
-- Read by the listing of buckets' keys.
CREATE INDEX IF NOT EXISTS bucket_record_by_bucket ON qflare.bucket_record (bucket, created_at);
-- Read by a turn, which moves the buckets' keys on.
CREATE INDEX IF NOT EXISTS bucket_record_undestroyed ON qflare.bucket_record (bucket) WHERE state <> 'destroyed';
-- Read by drop_changes.
CREATE INDEX IF NOT EXISTS change_by_time ON qflare.change (changed_at);

-- Row-level security -------------------------------------------------------------------------------------------------
DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['device_count', 'device_key_move', 'change'] LOOP
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
CREATE POLICY change_for_maintenance ON qflare.change TO qflare_maintenance USING (true);

-- Privileges -----------------------------------------------------------------------------------------------------------
GRANT SELECT ON qflare.device_count, qflare.device_key_move, qflare.bucket_record, qflare.bucket_record_move,
      qflare.server_key_move, qflare.change TO qflare_auditor;
GRANT SELECT ON qflare.bucket_record, qflare.bucket_record_move, qflare.server_key_move TO qflare_app;
GRANT SELECT, INSERT ON qflare.device_key_move, qflare.change TO qflare_app;
GRANT SELECT, INSERT, UPDATE ON qflare.device_count TO qflare_app;
GRANT SELECT, DELETE ON qflare.change TO qflare_maintenance;

-- What stands already --------------------------------------------------------------------------------------------------
-- The owner sees no tenant's rows: the auditor counts, the application's role writes inside each tenant.
DO $$
DECLARE
    v_counts jsonb;
    v_count  record;
BEGIN
    PERFORM set_config('role', 'qflare_auditor', true);
    SELECT coalesce(jsonb_agg(to_jsonb(c)), '[]') INTO v_counts
      FROM (SELECT t.tenant_id,
                   count(d.ref) FILTER (WHERE d.state = 'pre-active')  AS pre_active,
                   count(d.ref) FILTER (WHERE d.state = 'active')      AS active,
                   count(d.ref) FILTER (WHERE d.state = 'suspended')   AS suspended,
                   count(d.ref) FILTER (WHERE d.state = 'deactivated') AS deactivated,
                   count(d.ref) FILTER (WHERE d.state = 'compromised') AS compromised,
                   count(d.ref) FILTER (WHERE d.state = 'destroyed')   AS destroyed,
                   coalesce(2 * sum(d.key_version), 0)                 AS device_keys
              FROM qflare.tenant AS t LEFT JOIN qflare.device AS d ON d.tenant_id = t.tenant_id
             GROUP BY t.tenant_id) AS c;
    PERFORM set_config('role', 'qflare_app', true);
    FOR v_count IN SELECT * FROM jsonb_to_recordset(v_counts)
        AS c (tenant_id uuid, pre_active bigint, active bigint, suspended bigint, deactivated bigint,
              compromised bigint, destroyed bigint, device_keys bigint) LOOP
        PERFORM set_config('qflare.tenant', v_count.tenant_id::text, true);
        UPDATE qflare.enrolment_token AS t
           SET state = 'used', state_reason = 'a device enrolled with it', state_changed_at = t.used_at
         WHERE t.tenant_id = v_count.tenant_id AND t.used_at IS NOT NULL;
        IF v_count.device_keys > 0 THEN
            INSERT INTO qflare.device_count (tenant_id, pre_active, active, suspended, deactivated, compromised,
                                             destroyed, device_keys)
            VALUES (v_count.tenant_id, v_count.pre_active, v_count.active, v_count.suspended, v_count.deactivated,
                    v_count.compromised, v_count.destroyed, v_count.device_keys);
        END IF;
    END LOOP;
    PERFORM set_config('qflare.tenant', '', true);
    PERFORM set_config('role', 'qflare_owner', true);
END
$$;
ALTER TABLE qflare.enrolment_token
    ADD CONSTRAINT enrolment_token_state_known CHECK (state IN ('active', 'used', 'revoked')),
    ADD CONSTRAINT enrolment_token_state_reason_size CHECK (octet_length(state_reason) <= 1000),
    ADD CONSTRAINT enrolment_token_used_of_state CHECK ((used_at IS NOT NULL) = (state = 'used'));
INSERT INTO qflare.bucket_record (fingerprint, bucket, state, created_at)
SELECT sha256(k.announcement), k.bucket, CASE WHEN k.bucket <= m.bucket THEN 'active' ELSE 'pre-active' END,
       k.created_at
  FROM qflare.bucket_key AS k CROSS JOIN qflare.bucket_mark AS m;

-- Legal states and moves (NIST SP 800-57 part 1, section 7) --------------------------------------------------------------

-- Refuse a first state or a move that a table's states do not allow; the table has a column state.
-- The trigger's arguments: the table's name, for the constraint's (a partition has another), and which states it has:
-- 'key' those of NIST SP 800-57, 'session' and 'token' ours.
CREATE OR REPLACE FUNCTION qflare.refuse_illegal_move() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_table CONSTANT text   := coalesce(TG_ARGV[0], TG_TABLE_NAME);
    v_first CONSTANT text[] := CASE coalesce(TG_ARGV[1], 'key')
        WHEN 'key'     THEN ARRAY['pre-active', 'active']
        WHEN 'session' THEN ARRAY['live']
        WHEN 'token'   THEN ARRAY['active'] END;
    v_moves CONSTANT text[] := CASE coalesce(TG_ARGV[1], 'key')
        WHEN 'key' THEN ARRAY[
            'pre-active>active', 'pre-active>suspended', 'pre-active>deactivated', 'pre-active>compromised',
            'pre-active>destroyed', 'active>suspended', 'active>deactivated', 'active>compromised',
            'suspended>active', 'suspended>deactivated', 'suspended>compromised',
            'deactivated>compromised', 'deactivated>destroyed', 'compromised>destroyed']
        WHEN 'session' THEN ARRAY['live>ended', 'live>revoked', 'live>superseded']
        WHEN 'token'   THEN ARRAY['active>used', 'active>revoked'] END;
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
DO $$
DECLARE
    v_guard record;
BEGIN
    FOR v_guard IN SELECT * FROM (VALUES
        ('device', 'key', $w$NEW.state NOT IN ('pre-active', 'active')$w$),
        ('device_key', 'key', $w$NEW.state NOT IN ('pre-active', 'active')$w$),
        ('server_key', 'key', $w$NEW.state NOT IN ('pre-active', 'active')$w$),
        ('bucket_record', 'key', $w$NEW.state NOT IN ('pre-active', 'active')$w$),
        ('session', 'session', $w$NEW.state <> 'live'$w$),
        ('enrolment_token', 'token', $w$NEW.state <> 'active'$w$))
        AS g (name, states, bad)
    LOOP
        -- What stands behind WHEN costs no call: a row that begins as it should passes at once.
        EXECUTE format('CREATE OR REPLACE TRIGGER %I BEFORE INSERT ON qflare.%I FOR EACH ROW WHEN (%s) '
                       'EXECUTE FUNCTION qflare.refuse_illegal_move(%L, %L)',
                       v_guard.name || '_state_first', v_guard.name, v_guard.bad, v_guard.name, v_guard.states);
        EXECUTE format('CREATE OR REPLACE TRIGGER %I BEFORE UPDATE OF state ON qflare.%I FOR EACH ROW '
                       'WHEN (OLD.state IS DISTINCT FROM NEW.state) '
                       'EXECUTE FUNCTION qflare.refuse_illegal_move(%L, %L)',
                       v_guard.name || '_state_move', v_guard.name, v_guard.name, v_guard.states);
    END LOOP;
END
$$;

-- Why a state changes: what the transaction says in qflare.reason, else what the move itself tells.
CREATE OR REPLACE FUNCTION qflare.reason_of(p_from text, p_to text) RETURNS text
LANGUAGE sql STABLE AS $$
    SELECT coalesce(nullif(current_setting('qflare.reason', true), ''),
                    CASE WHEN p_from = 'pre-active' AND p_to = 'active' THEN 'proven by a handshake'
                         ELSE 'no reason given' END)
$$;

-- Keep a move of a device's key; its row is locked by the update that moves it.
CREATE OR REPLACE FUNCTION qflare.keep_device_key_move() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO qflare.device_key_move (tenant_id, ref, key_version, kind, move_index, from_state, to_state, reason,
                                        moved_at)
    SELECT NEW.tenant_id, NEW.ref, NEW.key_version, NEW.kind, count(*), OLD.state, NEW.state,
           qflare.reason_of(OLD.state, NEW.state), clock_timestamp()
      FROM qflare.device_key_move AS m
     WHERE m.ref = NEW.ref AND m.key_version = NEW.key_version AND m.kind = NEW.kind AND m.tenant_id = NEW.tenant_id;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER device_key_moved AFTER UPDATE OF state ON qflare.device_key
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION qflare.keep_device_key_move();

-- Keep a move of a bucket's key; with the owner's rights, so that no application writes that history otherwise.
CREATE OR REPLACE FUNCTION qflare.keep_bucket_record_move() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    INSERT INTO qflare.bucket_record_move (fingerprint, bucket, move_index, from_state, to_state, reason, moved_at)
    SELECT NEW.fingerprint, NEW.bucket, count(*), OLD.state, NEW.state, qflare.reason_of(OLD.state, NEW.state),
           clock_timestamp()
      FROM qflare.bucket_record_move AS m WHERE m.fingerprint = NEW.fingerprint AND m.bucket = NEW.bucket;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER bucket_record_moved AFTER UPDATE OF state ON qflare.bucket_record
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION qflare.keep_bucket_record_move();

-- Keep a move of a key of the server's identity; its row says why.
CREATE OR REPLACE FUNCTION qflare.keep_server_key_move() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    INSERT INTO qflare.server_key_move (key_id, move_index, from_state, to_state, reason, moved_at)
    SELECT NEW.key_id, count(*), OLD.state, NEW.state, NEW.state_reason, clock_timestamp()
      FROM qflare.server_key_move AS m WHERE m.key_id = NEW.key_id;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER server_key_moved AFTER UPDATE OF state ON qflare.server_key
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION qflare.keep_server_key_move();

-- move_bucket_record: move a bucket's key and say why; false if there is none with that fingerprint.
CREATE OR REPLACE FUNCTION qflare.move_bucket_record(p_fingerprint bytea, p_state text, p_reason text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_reason CONSTANT text := set_config('qflare.reason', p_reason, true);
BEGIN
    UPDATE qflare.bucket_record AS k SET state = p_state WHERE k.fingerprint = p_fingerprint;
    RETURN FOUND;
END
$$;

-- A bucket's key begins to live: pre-active where it is published early, else in the state of its bucket.
CREATE OR REPLACE FUNCTION qflare.begin_bucket_key() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_mark bigint;
BEGIN
    -- Held, so that the mark cannot rise over the new row without seeing it.
    SELECT m.bucket INTO STRICT v_mark FROM qflare.bucket_mark AS m FOR SHARE;
    INSERT INTO qflare.bucket_record (fingerprint, bucket, state)
    VALUES (sha256(NEW.announcement), NEW.bucket, 'pre-active') ON CONFLICT DO NOTHING;
    IF NEW.bucket <= v_mark THEN
        PERFORM qflare.move_bucket_record(
            sha256(NEW.announcement), CASE WHEN NEW.bucket = v_mark THEN 'active' ELSE 'deactivated' END,
            CASE WHEN NEW.bucket = v_mark THEN 'its bucket is current' ELSE 'its bucket is no longer current' END);
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER bucket_key_begun AFTER INSERT ON qflare.bucket_key
    FOR EACH ROW EXECUTE FUNCTION qflare.begin_bucket_key();

-- The mark rose (A2): that bucket's key is active, those of buckets before it are deactivated.
CREATE OR REPLACE FUNCTION qflare.turn_bucket_keys() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_key record;
BEGIN
    FOR v_key IN SELECT k.fingerprint, k.bucket FROM qflare.bucket_record AS k
                  WHERE k.state IN ('pre-active', 'active') AND k.state <> 'destroyed' AND k.bucket <= NEW.bucket
                    AND (k.bucket < NEW.bucket OR k.state = 'pre-active')
                  ORDER BY k.bucket FOR UPDATE LOOP
        PERFORM qflare.move_bucket_record(
            v_key.fingerprint, CASE WHEN v_key.bucket = NEW.bucket THEN 'active' ELSE 'deactivated' END,
            CASE WHEN v_key.bucket = NEW.bucket THEN 'its bucket is current'
                 ELSE 'its bucket is no longer current' END);
    END LOOP;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER bucket_mark_risen AFTER UPDATE OF bucket ON qflare.bucket_mark
    FOR EACH ROW WHEN (OLD.bucket < NEW.bucket) EXECUTE FUNCTION qflare.turn_bucket_keys();

-- A bucket's sealed key is deleted: what stays is that it lived, and that it is destroyed.
CREATE OR REPLACE FUNCTION qflare.end_bucket_key() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_fingerprint CONSTANT bytea := sha256(OLD.announcement);
    v_reason      CONSTANT text  := CASE
        WHEN OLD.bucket < (SELECT m.bucket FROM qflare.bucket_mark AS m) THEN 'its bucket is over'
        ELSE 'removed before its bucket was over' END;
BEGIN
    -- An active key has no way to destroyed but by being deactivated.
    IF (SELECT k.state FROM qflare.bucket_record AS k WHERE k.fingerprint = v_fingerprint) = 'active' THEN
        PERFORM qflare.move_bucket_record(v_fingerprint, 'deactivated', v_reason);
    END IF;
    PERFORM qflare.move_bucket_record(v_fingerprint, 'destroyed', v_reason);
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER bucket_key_ended AFTER DELETE ON qflare.bucket_key
    FOR EACH ROW EXECUTE FUNCTION qflare.end_bucket_key();

-- Changes that every worker must hear of ---------------------------------------------------------------------------------

-- note_change: tell the workers that listen, and those that poll, which device or session is not what it was.
-- A message holds a tenant and a ref or sid, never a secret; it leaves with the commit.
CREATE OR REPLACE FUNCTION qflare.note_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF TG_ARGV[0] = 'device' THEN
        INSERT INTO qflare.change (tenant_id, ref) VALUES (NEW.tenant_id, NEW.ref);
        PERFORM pg_notify('qflare_change', 'device ' || replace(NEW.tenant_id::text, '-', '') || ' '
                                           || encode(NEW.ref, 'hex'));
    ELSE
        INSERT INTO qflare.change (tenant_id, sid) VALUES (NEW.tenant_id, NEW.sid);
        PERFORM pg_notify('qflare_change', 'session ' || replace(NEW.tenant_id::text, '-', '') || ' '
                                           || replace(NEW.sid::text, '-', ''));
    END IF;
    RETURN NULL;
END
$$;
CREATE OR REPLACE TRIGGER device_changed AFTER UPDATE OF state, key_version, sealed_psk ON qflare.device
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state OR OLD.key_version IS DISTINCT FROM NEW.key_version
                       OR OLD.sealed_psk IS DISTINCT FROM NEW.sealed_psk)
    EXECUTE FUNCTION qflare.note_change('device');
-- Not of sessions that newer ones of their device supersede: that is no revocation, it happens with handshakes, and
-- commits with a message wait for each other.
CREATE OR REPLACE TRIGGER session_changed AFTER UPDATE OF state ON qflare.session
    FOR EACH ROW WHEN (OLD.state = 'live' AND NEW.state IN ('ended', 'revoked'))
    EXECUTE FUNCTION qflare.note_change('session');

-- Those of buckets before the present one are no longer active.
SELECT qflare.move_bucket_record(k.fingerprint, 'deactivated', 'its bucket is no longer current')
  FROM qflare.bucket_record AS k CROSS JOIN qflare.bucket_mark AS m
 WHERE k.bucket < m.bucket AND k.state = 'active';

-- Functions of the application ------------------------------------------------------------------------------------------

-- count_devices: devices that came (p_from null) or moved, and keys that came; under the head's lock, last of all.
CREATE OR REPLACE FUNCTION qflare.count_devices(
    p_tenant uuid, p_from text, p_to text, p_devices bigint, p_keys bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    -- Without ON CONFLICT where the row stands: it would check the difference as if it were a row of its own.
    LOOP
        UPDATE qflare.device_count AS c
           SET pre_active  = c.pre_active  + p_devices * ((p_to = 'pre-active')::integer
                                                          - coalesce(p_from = 'pre-active', false)::integer),
               active      = c.active      + p_devices * ((p_to = 'active')::integer
                                                          - coalesce(p_from = 'active', false)::integer),
               suspended   = c.suspended   + p_devices * ((p_to = 'suspended')::integer
                                                          - coalesce(p_from = 'suspended', false)::integer),
               deactivated = c.deactivated + p_devices * ((p_to = 'deactivated')::integer
                                                          - coalesce(p_from = 'deactivated', false)::integer),
               compromised = c.compromised + p_devices * ((p_to = 'compromised')::integer
                                                          - coalesce(p_from = 'compromised', false)::integer),
               destroyed   = c.destroyed   + p_devices * ((p_to = 'destroyed')::integer
                                                          - coalesce(p_from = 'destroyed', false)::integer),
               device_keys = c.device_keys + p_keys
         WHERE c.tenant_id = p_tenant;
        EXIT WHEN FOUND;
        INSERT INTO qflare.device_count (tenant_id, pre_active, active, suspended, deactivated, compromised,
                                         destroyed, device_keys)
        VALUES (p_tenant, 0, 0, 0, 0, 0, 0, 0) ON CONFLICT DO NOTHING;
    END LOOP;
END
$$;

-- add_devices: register devices; added[i] is false where the name or ref exists. Events of added ones are written.
CREATE OR REPLACE FUNCTION qflare.add_devices(
    p_tenant uuid, p_refs bytea[], p_device_ids text[], p_signature_algorithms text[], p_verification_keys bytea[],
    p_kem_algorithms text[], p_encapsulation_keys bytea[], p_kem_states text[],
    p_event_types text[], p_severities text[], p_event_devices text[], p_data bytea[], p_leaves bytea[],
    p_occurred_ms bigint[], OUT added boolean[], OUT first_index bigint, OUT old_frontier bytea)
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_fresh   bytea[];     -- refs that are new
BEGIN
    -- In order of ref, so that two batches with the same names wait for each other instead of locking up.
    WITH fresh AS (
        INSERT INTO qflare.device (tenant_id, ref, device_id, state, key_version)
        SELECT p_tenant, d.ref, d.device_id, 'active', 1
          FROM unnest(p_refs, p_device_ids) AS d (ref, device_id)
         ORDER BY d.ref
        ON CONFLICT DO NOTHING
        RETURNING ref)
    SELECT array_agg(f.ref) INTO v_fresh FROM fresh AS f;
    IF cardinality(v_fresh) = cardinality(p_refs) THEN      -- what nearly always is
        added := array_fill(true, ARRAY[cardinality(p_refs)]);
    ELSE
        SELECT array_agg(f.ref IS NOT NULL AND d.turn = 1 ORDER BY d.place) INTO added
          FROM (SELECT n.ref, n.place, row_number() OVER (PARTITION BY n.ref ORDER BY n.place) AS turn
                  FROM unnest(p_refs) WITH ORDINALITY AS n (ref, place)) AS d
          LEFT JOIN unnest(v_fresh) AS f (ref) ON f.ref = d.ref;
    END IF;
    INSERT INTO qflare.device_key (tenant_id, ref, key_version, kind, algorithm, public_key, state)
    SELECT p_tenant, d.ref, 1, k.kind, k.algorithm, k.public_key, k.state
      FROM unnest(added, p_refs, p_signature_algorithms, p_verification_keys, p_kem_algorithms,
                  p_encapsulation_keys, p_kem_states)
           AS d (is_added, ref, signature_algorithm, verification_key, kem_algorithm, encapsulation_key, kem_state)
     CROSS JOIN LATERAL (VALUES ('signature', d.signature_algorithm, d.verification_key, 'active'),
                                ('kem', d.kem_algorithm, d.encapsulation_key, d.kem_state))
           AS k (kind, algorithm, public_key, state)
     WHERE d.is_added;
    SELECT w.first_index, w.old_frontier INTO first_index, old_frontier
      FROM qflare.write_events(p_tenant, added, p_event_types, p_severities, p_event_devices, p_data, p_leaves,
                               p_occurred_ms) AS w;
    IF v_fresh <> '{}' THEN
        PERFORM qflare.count_devices(p_tenant, NULL, 'active', cardinality(v_fresh), 2 * cardinality(v_fresh));
    END IF;
END
$$;

-- enrol_devices: consume tokens and register their devices, each by itself (E3); results as EnrolmentResult.
CREATE OR REPLACE FUNCTION qflare.enrol_devices(
    p_tenant uuid, p_token_ids uuid[], p_key_hashes bytea[], p_refs bytea[], p_device_ids text[],
    p_signature_algorithms text[], p_verification_keys bytea[], p_kem_algorithms text[], p_encapsulation_keys bytea[],
    p_kem_states text[], p_event_types text[], p_severities text[], p_event_devices text[], p_data bytea[],
    p_leaves bytea[], p_occurred_ms bigint[], p_now timestamptz,
    OUT results text[], OUT key_versions bigint[], OUT first_index bigint, OUT old_frontier bytea)
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_place   integer;
    v_token   qflare.enrolment_token;
    v_version bigint;
    v_keep    boolean[] := array_fill(false, ARRAY[cardinality(p_token_ids)]);
    v_made    integer   := 0;
BEGIN
    results := array_fill(NULL::text, ARRAY[cardinality(p_token_ids)]);
    key_versions := array_fill(NULL::bigint, ARRAY[cardinality(p_token_ids)]);
    -- All locks of the batch at once and in one order.
    PERFORM FROM qflare.enrolment_token AS t
      WHERE t.tenant_id = p_tenant AND t.token_id = ANY (p_token_ids) ORDER BY t.token_id FOR UPDATE;
    -- In order of ref as add_devices, so that batches with the same names wait for each other instead of locking up.
    FOR v_place IN SELECT d.place FROM unnest(p_refs) WITH ORDINALITY AS d (ref, place) ORDER BY d.ref, d.place LOOP
        SELECT * INTO v_token FROM qflare.enrolment_token AS t
         WHERE t.tenant_id = p_tenant AND t.token_id = p_token_ids[v_place];
        IF NOT FOUND OR v_token.device_id <> p_device_ids[v_place] OR v_token.state = 'revoked' THEN
            results[v_place] := 'token-unknown';
        ELSIF v_token.used_at IS NOT NULL THEN
            -- The same keys again are answered afresh, as long as the device still stands.
            SELECT d.key_version INTO v_version FROM qflare.device AS d
             WHERE d.tenant_id = p_tenant AND d.ref = p_refs[v_place] AND d.state = 'active' AND d.key_version = 1;
            IF FOUND AND v_token.used_key_hash = p_key_hashes[v_place] THEN
                results[v_place] := 'repeated';
                key_versions[v_place] := v_version;
            ELSE
                results[v_place] := 'token-used';
            END IF;
        ELSIF v_token.expires_at <= p_now THEN
            results[v_place] := 'token-expired';
        ELSE
            INSERT INTO qflare.device (tenant_id, ref, device_id, state, key_version)
            VALUES (p_tenant, p_refs[v_place], p_device_ids[v_place], 'active', 1)
            ON CONFLICT DO NOTHING;
            IF NOT FOUND THEN
                results[v_place] := 'device-exists';
            ELSE
                INSERT INTO qflare.device_key (tenant_id, ref, key_version, kind, algorithm, public_key, state)
                VALUES (p_tenant, p_refs[v_place], 1, 'signature', p_signature_algorithms[v_place],
                        p_verification_keys[v_place], 'active'),
                       (p_tenant, p_refs[v_place], 1, 'kem', p_kem_algorithms[v_place],
                        p_encapsulation_keys[v_place], p_kem_states[v_place]);
                UPDATE qflare.enrolment_token AS t
                   SET used_at = p_now, used_key_hash = p_key_hashes[v_place], state = 'used',
                       state_reason = 'a device enrolled with it', state_changed_at = p_now
                 WHERE t.tenant_id = p_tenant AND t.token_id = p_token_ids[v_place];
                results[v_place] := 'enrolled';
                key_versions[v_place] := 1;
                v_keep[v_place] := true;
                v_made := v_made + 1;
            END IF;
        END IF;
    END LOOP;
    SELECT w.first_index, w.old_frontier INTO first_index, old_frontier
      FROM qflare.write_events(p_tenant, v_keep, p_event_types, p_severities, p_event_devices, p_data, p_leaves,
                               p_occurred_ms) AS w;
    IF v_made > 0 THEN
        PERFORM qflare.count_devices(p_tenant, NULL, 'active', v_made, 2 * v_made);
    END IF;
END
$$;

-- set_device_state: move a device, end its sessions unless it becomes active, write the event; false if unknown.
-- Keys follow: into the states that are final, and proven ones into suspension and back.
CREATE OR REPLACE FUNCTION qflare.set_device_state(
    p_tenant uuid, p_ref bytea, p_state text, p_reason text, p_types text[], p_severities text[], p_devices text[],
    p_data bytea[], p_leaves bytea[], p_occurred_ms bigint[])
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_reason  CONSTANT text    := set_config('qflare.reason', p_reason, true);
    v_state text;
    v_ended bigint[];
BEGIN
    SELECT d.state INTO v_state FROM qflare.device AS d
     WHERE d.tenant_id = p_tenant AND d.ref = p_ref FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF v_state = p_state THEN
        RAISE EXCEPTION 'the device cannot go from % to %', p_state, p_state
            USING ERRCODE = 'check_violation', CONSTRAINT = 'device_state_move';
    END IF;
    UPDATE qflare.device AS d
       SET state = p_state, state_reason = p_reason, state_changed_at = clock_timestamp()
     WHERE d.tenant_id = p_tenant AND d.ref = p_ref;
    IF p_state IN ('deactivated', 'compromised', 'destroyed') THEN
        UPDATE qflare.device_key AS k
           SET state = p_state, ended_at = coalesce(k.ended_at, clock_timestamp())
         WHERE k.tenant_id = p_tenant AND k.ref = p_ref
           AND k.state <> p_state AND k.state <> 'destroyed'
           AND (k.state <> 'compromised' OR p_state = 'destroyed')
           AND (k.state <> 'active' OR p_state <> 'destroyed');
    ELSE
        -- One that is not proven yet stays so: resuming its device must not prove it.
        UPDATE qflare.device_key AS k
           SET state = p_state
         WHERE k.tenant_id = p_tenant AND k.ref = p_ref
           AND k.state = CASE p_state WHEN 'suspended' THEN 'active' WHEN 'active' THEN 'suspended' END;
    END IF;
    IF p_state <> 'active' THEN
        v_ended := qflare.stop_sessions(p_tenant, ARRAY[p_ref], NULL, 'revoked');
    END IF;
    PERFORM qflare.write_events(p_tenant, ARRAY[true], p_types, p_severities, p_devices, p_data, p_leaves,
                                p_occurred_ms);
    IF v_ended IS NOT NULL THEN
        PERFORM qflare.count_ended(p_tenant, v_ended);
    END IF;
    PERFORM qflare.count_devices(p_tenant, v_state, p_state, 1, 0);
    RETURN true;
END
$$;

-- rotate_device_keys: make new keys current as p_key_version, one above the present (E4); the result in words.
CREATE OR REPLACE FUNCTION qflare.rotate_device_keys(
    p_tenant uuid, p_ref bytea, p_key_version bigint, p_signature_algorithm text, p_verification_key bytea,
    p_kem_algorithm text, p_encapsulation_key bytea, p_kem_state text, p_types text[], p_severities text[],
    p_devices text[], p_data bytea[], p_leaves bytea[], p_occurred_ms bigint[])
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_reason  CONSTANT text    := set_config('qflare.reason', 'followed by key version ' || p_key_version, true);
    v_state   text;
    v_version bigint;
BEGIN
    SELECT d.state, d.key_version INTO v_state, v_version FROM qflare.device AS d
     WHERE d.tenant_id = p_tenant AND d.ref = p_ref FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN 'unknown-device';
    ELSIF v_state <> 'active' THEN
        RETURN 'device-state';
    ELSIF v_version + 1 <> p_key_version THEN
        RETURN 'key-version';
    END IF;
    UPDATE qflare.device_key AS k
       SET state = 'deactivated', ended_at = clock_timestamp()
     WHERE k.tenant_id = p_tenant AND k.ref = p_ref AND k.key_version = v_version
       AND k.state IN ('pre-active', 'active', 'suspended');
    INSERT INTO qflare.device_key (tenant_id, ref, key_version, kind, algorithm, public_key, state)
    VALUES (p_tenant, p_ref, p_key_version, 'signature', p_signature_algorithm, p_verification_key, 'active'),
           (p_tenant, p_ref, p_key_version, 'kem', p_kem_algorithm, p_encapsulation_key, p_kem_state);
    UPDATE qflare.device AS d SET key_version = p_key_version WHERE d.tenant_id = p_tenant AND d.ref = p_ref;
    PERFORM qflare.write_events(p_tenant, ARRAY[true], p_types, p_severities, p_devices, p_data, p_leaves,
                                p_occurred_ms);
    PERFORM qflare.count_devices(p_tenant, 'active', 'active', 1, 2);
    RETURN 'rotated';
END
$$;

-- revoke_token: take a token back before it is used, with its event; false if there is no such token.
CREATE OR REPLACE FUNCTION qflare.revoke_token(
    p_tenant uuid, p_token_id uuid, p_reason text, p_types text[], p_severities text[], p_devices text[],
    p_data bytea[], p_leaves bytea[], p_occurred_ms bigint[])
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_state text;
BEGIN
    SELECT t.state INTO v_state FROM qflare.enrolment_token AS t
     WHERE t.tenant_id = p_tenant AND t.token_id = p_token_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF v_state = 'revoked' THEN
        RAISE EXCEPTION 'the enrolment token cannot go from revoked to revoked'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'enrolment_token_state_move';
    END IF;
    UPDATE qflare.enrolment_token AS t
       SET state = 'revoked', state_reason = p_reason, state_changed_at = clock_timestamp()
     WHERE t.tenant_id = p_tenant AND t.token_id = p_token_id;
    PERFORM qflare.write_events(p_tenant, ARRAY[true], p_types, p_severities, p_devices, p_data, p_leaves,
                                p_occurred_ms);
    RETURN true;
END
$$;

GRANT CREATE ON SCHEMA qflare TO qflare_maintenance;
SET LOCAL ROLE qflare_maintenance;

-- list_changes: devices and sessions that changed in transactions from p_since on, and where the next call goes on.
-- Whatever was not over when the mark was taken is read again: no commit, however late, is passed over.
-- is_cut says that there were more than p_limit.
CREATE OR REPLACE FUNCTION qflare.list_changes(
    p_since bigint, p_limit bigint, OUT mark bigint, OUT tenants uuid[], OUT refs bytea[], OUT sids uuid[],
    OUT is_cut boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
           coalesce(array_agg(c.tenant_id), '{}'), coalesce(array_agg(c.ref), '{}'), coalesce(array_agg(c.sid), '{}'),
           count(*) > p_limit
      INTO mark, tenants, refs, sids, is_cut
      FROM (SELECT e.tenant_id, e.ref, e.sid FROM qflare.change AS e
             WHERE e.xid >= p_since::text::xid8 ORDER BY e.xid LIMIT p_limit + 1) AS c;
END
$$;

-- drop_changes: delete what is told of changes before p_before; no worker looks back so far.
CREATE OR REPLACE FUNCTION qflare.drop_changes(p_before timestamptz) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_dropped bigint;
BEGIN
    DELETE FROM qflare.change AS c WHERE c.changed_at < p_before;
    GET DIAGNOSTICS v_dropped = ROW_COUNT;
    RETURN v_dropped;
END
$$;

SET LOCAL ROLE qflare_owner;
REVOKE CREATE ON SCHEMA qflare FROM qflare_maintenance;

RESET ROLE;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA qflare FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA qflare TO qflare_app;
