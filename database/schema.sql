-- QFLARE's schema: sets up an empty database by itself, and may be run again over the same version.
--
--     psql dbname < database/schema.sql
--
-- Run it as a superuser, or as a role with CREATEROLE that may create schemas in the database.  Everything is one
-- transaction.  An older schema is refused here: `qflare migrate` brings it up to date.
--
-- Order of locks, everywhere:
-- responses (advisory)  ->  response  ->  rotation_policy  ->  bucket turn (advisory)  ->  bucket_key  ->  rekeys (advisory)  ->  bucket_mark  ->
-- bucket_record  ->  bucket slot (advisory)  ->  device  ->  session  ->  device_use  ->  reply_key  ->  audit_key  ->  incident  ->  two_person_control  ->  operator  ->  log_head  ->  session_count  ->
-- device_count.

BEGIN;

-- The version that this file installs: the number of the last file in database/migrations.
SET LOCAL qflare.installs_version = 35;

-- Two first starts at once: the second waits here and then finds everything in place.
DO $$
DECLARE
    v_found integer;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('qflare.schema', 0));
    IF to_regclass('qflare.schema_version') IS NOT NULL THEN
        EXECUTE 'SELECT max(version) FROM qflare.schema_version' INTO v_found;
        IF v_found IS DISTINCT FROM current_setting('qflare.installs_version')::integer THEN
            RAISE EXCEPTION 'schema qflare has version %, this file is version %; use qflare migrate',
                v_found, current_setting('qflare.installs_version') USING ERRCODE = 'QF001';
        END IF;
    END IF;
END
$$;

-- Roles -------------------------------------------------------------------------------------------------------------
-- owner:        owns the objects; row-level security is forced on it as on everybody else.
-- app:          what a worker acts as; owns nothing, sees one tenant at a time.
-- auditor:      reads everything, changes nothing.
-- maintenance:  owns the few functions that cross tenants, and may do no more than they need.
DO $$
DECLARE
    v_role text;
BEGIN
    FOREACH v_role IN ARRAY ARRAY['qflare_owner', 'qflare_app', 'qflare_auditor', 'qflare_maintenance'] LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = v_role) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS', v_role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- roles belong to the whole cluster: another database's set-up was quicker
            END;
        END IF;
        IF NOT pg_has_role(current_user, v_role, 'USAGE') THEN
            EXECUTE format('GRANT %I TO %I', v_role, current_user);
        END IF;
    END LOOP;
END
$$;

CREATE SCHEMA IF NOT EXISTS qflare AUTHORIZATION qflare_owner;
REVOKE ALL ON SCHEMA qflare FROM PUBLIC;
GRANT USAGE ON SCHEMA qflare TO qflare_app, qflare_auditor, qflare_maintenance;

SET LOCAL ROLE qflare_owner;
SET LOCAL client_min_messages = warning;

-- Types of columns that are written thousands of times a second, with what a value must be -----------------------------
-- A table's check is read from its text again by each statement that writes a row; a domain's is kept ready for the
-- life of a connection (decision 0030). What compares columns stays with the table.
DO $$
DECLARE
    v_domain record;
BEGIN
    FOR v_domain IN SELECT * FROM (VALUES
        ('device_state', 'text', 'device_state_known',
         $check$VALUE IN ('pre-active', 'active', 'suspended', 'deactivated', 'compromised', 'destroyed')$check$),
        ('device_state_reason', 'text', 'device_state_reason_size', $check$octet_length(VALUE) <= 1000$check$),
        ('device_key_version', 'bigint', 'device_key_version_range', $check$VALUE BETWEEN 1 AND 4294967295$check$),
        ('device_key_key_version', 'bigint', 'device_key_version_range', $check$VALUE BETWEEN 1 AND 4294967295$check$),
        ('device_key_kind', 'text', 'device_key_kind_known', $check$VALUE IN ('kem', 'signature')$check$),
        ('device_key_algorithm', 'text', 'device_key_algorithm_known',
         $check$VALUE IN ('ML-KEM-1024', 'ML-DSA-44')$check$),
        ('device_key_state', 'text', 'device_key_state_known',
         $check$VALUE IN ('pre-active', 'active', 'suspended', 'deactivated', 'compromised', 'destroyed')$check$),
        ('session_key_version', 'bigint', 'session_key_version_range', $check$VALUE BETWEEN 1 AND 4294967295$check$),
        ('session_form', 'smallint', 'session_form_known', $check$VALUE IN (1, 2)$check$),
        ('session_policy', 'bigint', 'session_policy_range', $check$VALUE BETWEEN 0 AND 4294967295$check$),
        ('session_state_name', 'text', 'session_state_known',
         $check$VALUE IN ('live', 'ended', 'revoked', 'superseded')$check$),
        ('session_epoch', 'bigint', 'session_epoch_range', $check$VALUE BETWEEN 0 AND 4294967295$check$),
        ('session_ref', 'bytea', 'session_ref_size', $check$octet_length(VALUE) = 32$check$),
        ('session_log_index', 'bigint', 'session_log_index_range', $check$VALUE >= 0$check$),
        ('session_rekey_hash', 'bytea', 'session_rekey_hash_size', $check$octet_length(VALUE) = 64$check$),
        ('reply_key_sealed_reply_key', 'bytea', 'reply_key_sealed_reply_key_size',
         $check$octet_length(VALUE) BETWEEN 80 AND 128$check$),
        ('handshake_th3_hash', 'bytea', 'handshake_th3_hash_size', $check$octet_length(VALUE) = 64$check$),
        ('session_state_epoch', 'bigint', 'session_state_epoch_range', $check$VALUE BETWEEN 0 AND 4294967295$check$),
        ('session_state_sealed_chain_key', 'bytea', 'session_state_sealed_chain_key_size',
         $check$octet_length(VALUE) BETWEEN 80 AND 128$check$),
        ('audit_entry_log_index', 'bigint', 'audit_entry_log_index_range', $check$VALUE >= 0$check$),
        ('audit_entry_entry_type', 'smallint', 'audit_entry_type_known', $check$VALUE IN (1, 2, 3)$check$),
        ('audit_entry_event_type', 'text', 'audit_entry_event_type_size',
         $check$octet_length(VALUE) BETWEEN 1 AND 64$check$),
        ('audit_entry_severity', 'text', 'audit_entry_severity_known',
         $check$VALUE IN ('debug', 'info', 'warning', 'error', 'critical')$check$),
        ('audit_entry_device_id', 'text', 'audit_entry_device_id_size',
         $check$octet_length(VALUE) BETWEEN 1 AND 255$check$),
        ('audit_entry_leaf_hash', 'bytea', 'audit_entry_leaf_hash_size', $check$octet_length(VALUE) = 32$check$),
        ('audit_entry_leaf_data', 'bytea', 'audit_entry_leaf_data_size',
         $check$octet_length(VALUE) BETWEEN 1 AND 131072$check$),
        ('audit_entry_data', 'bytea', 'audit_entry_data_size', $check$octet_length(VALUE) BETWEEN 1 AND 65536$check$),
        ('log_head_size', 'bigint', 'log_head_size_range', $check$VALUE >= 0$check$),
        ('log_head_frontier', 'bytea', 'log_head_frontier_size',
         $check$octet_length(VALUE) % 32 = 0 AND octet_length(VALUE) <= 2016$check$),
        ('log_node_level', 'smallint', 'log_node_level_range', $check$VALUE BETWEEN 1 AND 62$check$),
        ('log_node_node_index', 'bigint', 'log_node_node_index_range', $check$VALUE >= 0$check$),
        ('log_node_hash', 'bytea', 'log_node_hash_size', $check$octet_length(VALUE) = 32$check$))
        AS d (name, type, claim, expression)
    LOOP
        CONTINUE WHEN to_regtype('qflare.' || v_domain.name) IS NOT NULL;
        EXECUTE format('CREATE DOMAIN qflare.%I AS %s CONSTRAINT %I CHECK (%s)',
                       v_domain.name, v_domain.type, v_domain.claim, v_domain.expression);
    END LOOP;
END
$$;

-- Tables ------------------------------------------------------------------------------------------------------------
-- Keys of several columns begin with the one that tells most (a random id, never the tenant): then every query has one
-- index that fits, and is planned right while a table has no statistics yet (decision 0024).

-- Which versions of the schema were installed when; every worker reads it at its start.
CREATE TABLE IF NOT EXISTS qflare.schema_version (
    version      integer     NOT NULL,
    installed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT schema_version_pkey PRIMARY KEY (version),
    CONSTRAINT schema_version_positive CHECK (version > 0)
);

-- Organisations; read by the operator's listing and by foreign keys.
CREATE TABLE IF NOT EXISTS qflare.tenant (
    tenant_id  uuid        NOT NULL,
    name       text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT tenant_pkey PRIMARY KEY (tenant_id),
    CONSTRAINT tenant_name_once UNIQUE (name),
    CONSTRAINT tenant_name_size CHECK (octet_length(name) BETWEEN 1 AND 255)
);

-- The roster, one row a device; read by every handshake (H3, H8) and locked by H8 against a revocation.
CREATE TABLE IF NOT EXISTS qflare.device (
    tenant_id        uuid        NOT NULL,
    ref              bytea       NOT NULL,
    device_id        text        NOT NULL COLLATE "C",
    state            qflare.device_state NOT NULL,
    state_reason     qflare.device_state_reason NOT NULL DEFAULT '',
    state_changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    key_version      qflare.device_key_version NOT NULL,
    sealed_psk       bytea,
    registered_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    psk_version      bigint      NOT NULL DEFAULT 0,
    CONSTRAINT device_pkey PRIMARY KEY (ref, tenant_id),
    CONSTRAINT device_id_once UNIQUE (device_id, tenant_id),
    CONSTRAINT device_of_tenant FOREIGN KEY (tenant_id) REFERENCES qflare.tenant (tenant_id),
    CONSTRAINT device_ref_size CHECK (octet_length(ref) = 32),
    CONSTRAINT device_id_size CHECK (octet_length(device_id) BETWEEN 1 AND 255),
    CONSTRAINT device_sealed_psk_size CHECK (octet_length(sealed_psk) BETWEEN 80 AND 128),
    CONSTRAINT device_psk_version_range CHECK (psk_version >= 0)
);

-- Every public key a device had, one row a key, with its state of NIST SP 800-57; read with the roster row.
-- One row a key keeps both kinds below the size from which PostgreSQL moves values out of the row.
CREATE TABLE IF NOT EXISTS qflare.device_key (
    tenant_id   uuid        NOT NULL,
    ref         bytea       NOT NULL,
    key_version qflare.device_key_key_version NOT NULL,
    kind        qflare.device_key_kind NOT NULL,
    algorithm   qflare.device_key_algorithm NOT NULL,
    public_key  bytea       NOT NULL,
    state       qflare.device_key_state NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at    timestamptz,
    CONSTRAINT device_key_pkey PRIMARY KEY (ref, key_version, kind, tenant_id),
    CONSTRAINT device_key_of_device FOREIGN KEY (ref, tenant_id) REFERENCES qflare.device (ref, tenant_id),
    CONSTRAINT device_key_public_key_size
        CHECK (octet_length(public_key) = CASE algorithm WHEN 'ML-KEM-1024' THEN 1568 ELSE 1312 END),
    CONSTRAINT device_key_algorithm_of_kind CHECK ((kind = 'kem') = (algorithm = 'ML-KEM-1024')),
    CONSTRAINT device_key_end_of_state
        CHECK ((ended_at IS NOT NULL) = (state IN ('deactivated', 'compromised', 'destroyed')))
);
-- Random bytes do not compress: storing them as they are saves the attempt.
ALTER TABLE qflare.device_key ALTER COLUMN public_key SET STORAGE EXTERNAL;

-- When a tenant's device keys are due for rotation, at most one row a tenant; read by every worker's maintenance, and
-- locked by whoever marks keys, so that all workers together keep to the share a minute.
CREATE TABLE IF NOT EXISTS qflare.rotation_policy (
    tenant_id       uuid        NOT NULL,
    max_age_s       bigint,
    max_records     bigint,
    max_bytes       bigint,
    jitter_percent  smallint    NOT NULL,
    minute_ppm      integer     NOT NULL,
    grace_s         bigint,
    changed_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    counted_devices bigint      NOT NULL DEFAULT 0,
    counted_at      timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT rotation_policy_pkey PRIMARY KEY (tenant_id),
    CONSTRAINT rotation_policy_of_tenant FOREIGN KEY (tenant_id) REFERENCES qflare.tenant (tenant_id),
    CONSTRAINT rotation_policy_bounds_something CHECK (num_nonnulls(max_age_s, max_records, max_bytes) > 0),
    CONSTRAINT rotation_policy_max_age_range CHECK (max_age_s % 3600 = 0 AND max_age_s BETWEEN 7200 AND 315360000),
    CONSTRAINT rotation_policy_max_records_range CHECK (max_records BETWEEN 1 AND 4294967296),
    CONSTRAINT rotation_policy_max_bytes_range CHECK (max_bytes BETWEEN 1 AND 17592186044416),
    CONSTRAINT rotation_policy_jitter_divides CHECK (jitter_percent IN (0, 1, 2, 4, 5, 10, 20, 25, 50)),
    CONSTRAINT rotation_policy_minute_range CHECK (minute_ppm BETWEEN 1 AND 1000000),
    CONSTRAINT rotation_policy_grace_range CHECK (grace_s BETWEEN 3600 AND 31536000),
    CONSTRAINT rotation_policy_counted_range CHECK (counted_devices >= 0)
);

-- Which device keys are due, and why: written once a key version, void as soon as the device has another version.
-- Read when a device asks (E4), and by the count of the last minute.
CREATE TABLE IF NOT EXISTS qflare.rotation_mark (
    tenant_id   uuid        NOT NULL,
    ref         bytea       NOT NULL,
    key_version bigint      NOT NULL,
    reason      text        NOT NULL,
    due_at      timestamptz NOT NULL,
    marked_at   timestamptz NOT NULL,
    CONSTRAINT rotation_mark_pkey PRIMARY KEY (ref, tenant_id),
    CONSTRAINT rotation_mark_of_device FOREIGN KEY (ref, tenant_id) REFERENCES qflare.device (ref, tenant_id),
    CONSTRAINT rotation_mark_key_version_range CHECK (key_version BETWEEN 1 AND 4294967295),
    CONSTRAINT rotation_mark_reason_known CHECK (reason IN ('age', 'records', 'bytes', 'operator'))
);

-- What the sessions of a device's key version have carried; added to by every worker's flush, read by the policies.
CREATE TABLE IF NOT EXISTS qflare.device_use (
    tenant_id   uuid   NOT NULL,
    ref         bytea  NOT NULL,
    key_version bigint NOT NULL,
    records     bigint NOT NULL,
    bytes       bigint NOT NULL,
    CONSTRAINT device_use_pkey PRIMARY KEY (ref, key_version, tenant_id),
    CONSTRAINT device_use_of_device FOREIGN KEY (ref, tenant_id) REFERENCES qflare.device (ref, tenant_id),
    CONSTRAINT device_use_key_version_range CHECK (key_version BETWEEN 1 AND 4294967295),
    CONSTRAINT device_use_range CHECK (records >= 0 AND bytes >= 0)
);

-- The server's identity by serial (A1), the highest in force since the bucket current_from; its signing keys, sealed,
-- until they are deactivated.  Read by each worker at its start, and again when the highest serial has changed.
CREATE TABLE IF NOT EXISTS qflare.server_identity (
    serial          bigint      NOT NULL,
    server_id       bytea       NOT NULL,
    root_key        bytea       NOT NULL,
    certificate     bytea       NOT NULL,
    sealed_root     bytea,
    sealed_announce bytea,
    sealed_log      bytea,
    created_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    current_from    bigint      NOT NULL DEFAULT 0,
    CONSTRAINT server_identity_pkey PRIMARY KEY (serial),
    CONSTRAINT server_identity_serial_range CHECK (serial >= 0),
    CONSTRAINT server_identity_current_from_range CHECK (current_from >= 0),
    CONSTRAINT server_identity_server_id_size CHECK (octet_length(server_id) = 32),
    CONSTRAINT server_identity_root_key_size CHECK (octet_length(root_key) = 2592),
    CONSTRAINT server_identity_certificate_size CHECK (octet_length(certificate) BETWEEN 7319 AND 7573),
    CONSTRAINT server_identity_sealed_root_size CHECK (octet_length(sealed_root) BETWEEN 48 AND 8192),
    CONSTRAINT server_identity_sealed_announce_size CHECK (octet_length(sealed_announce) BETWEEN 48 AND 8192),
    CONSTRAINT server_identity_sealed_log_size CHECK (octet_length(sealed_log) BETWEEN 48 AND 8192)
);
ALTER TABLE qflare.server_identity ALTER COLUMN root_key        SET STORAGE EXTERNAL;
ALTER TABLE qflare.server_identity ALTER COLUMN certificate     SET STORAGE EXTERNAL;
ALTER TABLE qflare.server_identity ALTER COLUMN sealed_root     SET STORAGE EXTERNAL;
ALTER TABLE qflare.server_identity ALTER COLUMN sealed_announce SET STORAGE EXTERNAL;
ALTER TABLE qflare.server_identity ALTER COLUMN sealed_log      SET STORAGE EXTERNAL;

-- The keys of the server's identity, one row a key, with its state of NIST SP 800-57; read by the operator's listing.
-- A pre-active key waits for a certificate that is signed elsewhere: its signing half, sealed, rests here until then.
CREATE TABLE IF NOT EXISTS qflare.server_key (
    key_id           bytea       NOT NULL,
    serial           bigint      NOT NULL,
    kind             text        NOT NULL,
    public_key       bytea       NOT NULL,
    state            text        NOT NULL,
    state_reason     text        NOT NULL,
    state_changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    sealed_key       bytea,
    CONSTRAINT server_key_pkey PRIMARY KEY (key_id),
    CONSTRAINT server_key_id_of_public_half CHECK (key_id = sha256(public_key)),
    CONSTRAINT server_key_serial_range CHECK (serial >= 0),
    CONSTRAINT server_key_kind_known CHECK (kind IN ('root', 'announce', 'log')),
    CONSTRAINT server_key_public_key_size
        CHECK (octet_length(public_key) = CASE kind WHEN 'root' THEN 2592 ELSE 1312 END),
    CONSTRAINT server_key_state_known
        CHECK (state IN ('pre-active', 'active', 'suspended', 'deactivated', 'compromised', 'destroyed')),
    CONSTRAINT server_key_state_reason_size CHECK (octet_length(state_reason) BETWEEN 1 AND 1000),
    CONSTRAINT server_key_sealed_key_size CHECK (octet_length(sealed_key) BETWEEN 48 AND 8192),
    CONSTRAINT server_key_sealed_while_pre_active CHECK ((sealed_key IS NOT NULL) = (state = 'pre-active'))
);
ALTER TABLE qflare.server_key ALTER COLUMN public_key SET STORAGE EXTERNAL;
ALTER TABLE qflare.server_key ALTER COLUMN sealed_key SET STORAGE EXTERNAL;
-- One key of a kind a serial, but for those that waited in vain; read by the insert of a certificate.
CREATE UNIQUE INDEX IF NOT EXISTS server_key_kind_once ON qflare.server_key (serial, kind) WHERE state <> 'destroyed';

-- The live buckets' announcements and sealed keys (A3, A4); a row here is what makes a bucket live.
-- Read by each worker at a turn, and by every transaction that writes into a bucket.
CREATE TABLE IF NOT EXISTS qflare.bucket_key (
    bucket            bigint      NOT NULL,
    width_s           integer     NOT NULL,
    announcement      bytea       NOT NULL,
    sealed_dk         bytea       NOT NULL,
    sealed_ticket_key bytea       NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT bucket_key_pkey PRIMARY KEY (bucket),
    CONSTRAINT bucket_key_bucket_range CHECK (bucket >= 0),
    CONSTRAINT bucket_key_width_range CHECK (width_s >= 1),
    CONSTRAINT bucket_key_announcement_size CHECK (octet_length(announcement) = 4042),
    CONSTRAINT bucket_key_sealed_dk_size CHECK (octet_length(sealed_dk) BETWEEN 80 AND 128),
    CONSTRAINT bucket_key_sealed_ticket_key_size CHECK (octet_length(sealed_ticket_key) BETWEEN 48 AND 96)
);
ALTER TABLE qflare.bucket_key ALTER COLUMN announcement SET STORAGE EXTERNAL;

-- One row: the highest bucket that has been current (A2), and the bucket below which sessions are over.
CREATE TABLE IF NOT EXISTS qflare.bucket_mark (
    only_row       boolean NOT NULL DEFAULT true,
    bucket         bigint  NOT NULL DEFAULT 0,
    expired_before bigint  NOT NULL DEFAULT 0,
    CONSTRAINT bucket_mark_pkey PRIMARY KEY (only_row),
    CONSTRAINT bucket_mark_only_row CHECK (only_row),
    CONSTRAINT bucket_mark_bucket_range CHECK (bucket >= 0),
    CONSTRAINT bucket_mark_expired_before_range CHECK (expired_before >= 0)
);

-- One row: counted on every second by each worker, which then tells the keeper; a restored copy is behind the keeper.
CREATE TABLE IF NOT EXISTS qflare.store_pulse (
    only_row   boolean NOT NULL DEFAULT true,
    pulse    bigint  NOT NULL DEFAULT 0,
    life     uuid    NOT NULL DEFAULT gen_random_uuid(),    -- another one once a restored copy was accepted
    CONSTRAINT store_pulse_pkey PRIMARY KEY (only_row),
    CONSTRAINT store_pulse_only_row CHECK (only_row),
    CONSTRAINT store_pulse_range CHECK (pulse >= 0)
);

-- Accepted handshakes (H8), kept until the bucket's ticket key is destroyed; written by every M3 and ANSWER,
-- read when one is repeated.  A ring of partitions: a bucket's slot is emptied, no row is deleted (decision 0023).
CREATE TABLE IF NOT EXISTS qflare.handshake (
    tenant_id     uuid     NOT NULL,
    ticket_bucket bigint   NOT NULL,
    sid           uuid     NOT NULL,
    slot          smallint NOT NULL,
    th3_hash      qflare.handshake_th3_hash NOT NULL,
    CONSTRAINT handshake_once PRIMARY KEY (sid, ticket_bucket, tenant_id, slot),
    CONSTRAINT handshake_slot_of_bucket CHECK (slot = ticket_bucket % 8)
) PARTITION BY LIST (slot);

-- Sessions; read by every record and every turn.  Grouped by their last bucket into a ring of four partitions.
CREATE TABLE IF NOT EXISTS qflare.session (
    tenant_id    uuid        NOT NULL,
    sid          uuid        NOT NULL,
    slot         smallint    NOT NULL,
    ref          qflare.session_ref NOT NULL,
    key_version  qflare.session_key_version NOT NULL,
    form         qflare.session_form NOT NULL,
    start_bucket bigint      NOT NULL,
    last_bucket  bigint      NOT NULL,
    policy       qflare.session_policy NOT NULL,
    state        qflare.session_state_name NOT NULL,
    epoch        qflare.session_epoch NOT NULL DEFAULT 0,
    log_index    qflare.session_log_index NOT NULL,
    created_at   timestamptz NOT NULL,
    carried_at   timestamptz,
    ended_at     timestamptz,
    rekey_hash   qflare.session_rekey_hash,
    rekey_bucket bigint,
    -- What it has carried, both ways; at most one flush of each worker behind (decision 0051).
    records      bigint      NOT NULL DEFAULT 0,
    bytes        bigint      NOT NULL DEFAULT 0,
    end_reason   text,                  -- said by a trigger when it ends
    CONSTRAINT session_pkey PRIMARY KEY (sid, tenant_id, slot),
    CONSTRAINT session_slot_of_last_bucket CHECK (slot = last_bucket / 192 % 4),
    CONSTRAINT session_lifetime_range CHECK (start_bucket >= 0 AND last_bucket - start_bucket BETWEEN 0 AND 287),
    CONSTRAINT session_end_of_state CHECK ((ended_at IS NULL) = (state = 'live'))
) PARTITION BY LIST (slot);

-- Which tenant a session id belongs to, for records, which name the session alone; read through
-- find_session_tenants.  Its key holds no tenant: session ids are unique across tenants (H8, decision 0026).
CREATE TABLE IF NOT EXISTS qflare.session_route (
    sid       uuid     NOT NULL,
    slot      smallint NOT NULL,
    tenant_id uuid     NOT NULL,
    CONSTRAINT session_route_once PRIMARY KEY (sid, slot)
) PARTITION BY LIST (slot);

-- Chain keys sealed under their bucket's KEK (R8); read by a session's first touch in a worker and by the turn.
-- In the bucket of a rekey (R7) both epochs' keys rest; a turn carries the present epoch's on.
CREATE TABLE IF NOT EXISTS qflare.session_state (
    bucket           bigint   NOT NULL,
    sid              uuid     NOT NULL,
    tenant_id        uuid     NOT NULL,
    slot             smallint NOT NULL,
    epoch            qflare.session_state_epoch NOT NULL,
    sealed_chain_key qflare.session_state_sealed_chain_key NOT NULL,
    CONSTRAINT session_state_pkey PRIMARY KEY (bucket, sid, epoch, tenant_id, slot),
    CONSTRAINT session_state_slot_of_bucket CHECK (slot = bucket % 8)
) PARTITION BY LIST (slot);

-- Chain keys of many sessions sealed together under their bucket's KEK (R8); written by the turn into a bucket, read by
-- the next one and by a session's first touch in a worker. Pages of one tenant and bucket do not overlap.
CREATE TABLE IF NOT EXISTS qflare.session_page (
    bucket            bigint   NOT NULL,
    tenant_id         uuid     NOT NULL,
    first_sid         uuid     NOT NULL,
    slot              smallint NOT NULL,
    last_sid          uuid     NOT NULL,
    sids              uuid[]   NOT NULL,
    epochs            bigint[] NOT NULL,
    sealed_chain_keys bytea    NOT NULL,
    CONSTRAINT session_page_pkey PRIMARY KEY (bucket, tenant_id, first_sid, slot),
    CONSTRAINT session_page_slot_of_bucket CHECK (slot = bucket % 8),
    CONSTRAINT session_page_ends CHECK (first_sid = sids[1] AND last_sid = sids[cardinality(sids)]
                                        AND first_sid <= last_sid),
    CONSTRAINT session_page_size CHECK (cardinality(sids) BETWEEN 1 AND 8192 AND cardinality(epochs) = cardinality(sids)
                                        AND octet_length(sealed_chain_keys) = 29 + 64 * cardinality(sids))
) PARTITION BY LIST (slot);

-- A page is ciphertext and random ids: neither compresses.
ALTER TABLE qflare.session_page ALTER COLUMN sids              SET STORAGE EXTERNAL;
ALTER TABLE qflare.session_page ALTER COLUMN sealed_chain_keys SET STORAGE EXTERNAL;

-- How far the turn into a bucket is: ranges of session ids done, and looked at again late; read by every worker.
CREATE TABLE IF NOT EXISTS qflare.bucket_turn (
    bucket     bigint      NOT NULL,
    ranges     integer     NOT NULL,
    done       integer     NOT NULL DEFAULT 0,
    settled    integer     NOT NULL DEFAULT 0,
    carried    bigint      NOT NULL DEFAULT 0,
    begun_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at   timestamptz,
    settled_at timestamptz,
    CONSTRAINT bucket_turn_pkey PRIMARY KEY (bucket),
    CONSTRAINT bucket_turn_ranges_positive CHECK (ranges >= 1),
    CONSTRAINT bucket_turn_done_range CHECK (done BETWEEN 0 AND ranges),
    CONSTRAINT bucket_turn_settled_range CHECK (settled BETWEEN 0 AND done),
    CONSTRAINT bucket_turn_carried_range CHECK (carried >= 0),
    CONSTRAINT bucket_turn_end_of_ranges CHECK ((ended_at IS NOT NULL) = (done = ranges)),
    CONSTRAINT bucket_turn_end_of_late CHECK ((settled_at IS NOT NULL) = (settled = ranges))
);

-- Accepted streams (R4), by the bucket of the record's header; written by every record.
-- call_id names the call that took it, so that this call alone may ask again (decision 0031).
CREATE TABLE IF NOT EXISTS qflare.stream (
    tenant_id uuid     NOT NULL,
    sid       uuid     NOT NULL,
    stream_id uuid     NOT NULL,
    bucket    bigint   NOT NULL,
    direction smallint NOT NULL,
    slot      smallint NOT NULL,
    call_id uuid,
    CONSTRAINT stream_once PRIMARY KEY (stream_id, sid, direction, bucket, tenant_id, slot),
    CONSTRAINT stream_slot_of_bucket CHECK (slot = bucket % 8),
    CONSTRAINT stream_direction_known CHECK (direction IN (1, 2))
) PARTITION BY LIST (slot);

-- Keys of replies that may come late (R6), one row a request, sealed under the KEK of `bucket` and again at each turn;
-- read when a reply comes or goes, deleted when it is taken.  direction is the reply's.
CREATE TABLE IF NOT EXISTS qflare.reply_key (
    tenant_id        uuid     NOT NULL,
    sid              uuid     NOT NULL,
    request_id       uuid     NOT NULL,
    direction        smallint NOT NULL,
    request_bucket   bigint   NOT NULL,
    request_epoch    qflare.session_epoch NOT NULL,
    expires_bucket   bigint   NOT NULL,
    bucket           bigint   NOT NULL,
    sealed_reply_key qflare.reply_key_sealed_reply_key NOT NULL,
    CONSTRAINT reply_key_pkey PRIMARY KEY (request_id, sid, tenant_id),
    CONSTRAINT reply_key_direction_known CHECK (direction IN (1, 2)),
    CONSTRAINT reply_key_bucket_range CHECK (request_bucket BETWEEN 0 AND expires_bucket)
);

-- Changes that were carried out and have no key of their own in another table (decision 0031): who repeats one gets its
-- outcome.  A ring of four partitions of twelve hours each: a change is remembered for a day at least.
CREATE TABLE IF NOT EXISTS qflare.call (
    tenant_id  uuid     NOT NULL,
    call_id    uuid     NOT NULL,
    slot       smallint NOT NULL,
    kind       text     NOT NULL,
    outcome    bigint,
    CONSTRAINT call_pkey PRIMARY KEY (call_id, tenant_id, slot),
    CONSTRAINT call_slot_range CHECK (slot BETWEEN 0 AND 3),
    CONSTRAINT call_kind_size CHECK (octet_length(kind) BETWEEN 1 AND 32)
) PARTITION BY LIST (slot);


-- How many sessions end with which bucket: what statistics and expiry read instead of counting rows.
CREATE TABLE IF NOT EXISTS qflare.session_count (
    tenant_id   uuid   NOT NULL,
    last_bucket bigint NOT NULL,
    live        bigint NOT NULL,
    total       bigint NOT NULL,
    CONSTRAINT session_count_pkey PRIMARY KEY (tenant_id, last_bucket),
    CONSTRAINT session_count_range CHECK (live BETWEEN 0 AND total)
);

-- Enrolment tokens by the hash of their secret (E1); read and consumed by enrolment.
CREATE TABLE IF NOT EXISTS qflare.enrolment_token (
    tenant_id     uuid        NOT NULL,
    token_id      uuid        NOT NULL,
    device_id     text        NOT NULL COLLATE "C",
    secret_hash   bytea       NOT NULL,
    expires_at    timestamptz NOT NULL,
    used_at       timestamptz,
    used_key_hash bytea,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    state            text        NOT NULL DEFAULT 'active',
    state_reason     text        NOT NULL DEFAULT '',
    state_changed_at timestamptz,       -- null in its first state, since created_at
    CONSTRAINT enrolment_token_pkey PRIMARY KEY (token_id, tenant_id),
    CONSTRAINT enrolment_token_of_tenant FOREIGN KEY (tenant_id) REFERENCES qflare.tenant (tenant_id),
    CONSTRAINT enrolment_token_device_id_size CHECK (octet_length(device_id) BETWEEN 1 AND 255),
    CONSTRAINT enrolment_token_secret_hash_size CHECK (octet_length(secret_hash) = 64),
    CONSTRAINT enrolment_token_used_key_hash_size CHECK (octet_length(used_key_hash) = 64),
    CONSTRAINT enrolment_token_used_whole CHECK ((used_at IS NULL) = (used_key_hash IS NULL)),
    CONSTRAINT enrolment_token_state_known CHECK (state IN ('active', 'used', 'revoked')),
    CONSTRAINT enrolment_token_state_reason_size CHECK (octet_length(state_reason) <= 1000),
    CONSTRAINT enrolment_token_used_of_state CHECK ((used_at IS NOT NULL) = (state = 'used'))
);

-- The audit log's entries, one log for the whole cluster (decision 0026); read by proofs, dashboards and auditors.
-- recorded_at is the event's own time, as in its leaf; for a session's entry it is the worker's clock.
CREATE TABLE IF NOT EXISTS qflare.audit_entry (
    log_index   qflare.audit_entry_log_index NOT NULL,
    tenant_id   uuid        NOT NULL,
    entry_type  qflare.audit_entry_entry_type NOT NULL,
    event_type  qflare.audit_entry_event_type NOT NULL,
    severity    qflare.audit_entry_severity NOT NULL,
    device_id   qflare.audit_entry_device_id COLLATE "C",
    leaf_hash   qflare.audit_entry_leaf_hash NOT NULL,
    leaf_data   qflare.audit_entry_leaf_data NOT NULL,
    data        qflare.audit_entry_data NOT NULL,
    recorded_at timestamptz NOT NULL,
    CONSTRAINT audit_entry_pkey PRIMARY KEY (log_index),
    CONSTRAINT audit_entry_session_fixed
        CHECK (entry_type <> 1
               OR (event_type = 'key_exchange' AND severity = 'info' AND device_id IS NULL AND data = '{}')),
    CONSTRAINT audit_entry_leaf_hash_of_data CHECK (leaf_hash = sha256('\x00'::bytea || leaf_data))
);

-- Keys of sealed log entries, listed under their subjects; read with the entries, and found by subject to be destroyed:
-- an entry whose key is gone is erased, and stands in the tree as before (docs/audit.md).
CREATE TABLE IF NOT EXISTS qflare.audit_key (
    log_index  bigint NOT NULL,
    tenant_id  uuid   NOT NULL,
    subject    bytea  NOT NULL,    -- a keyed hash of the device's name
    sealed_key bytea  NOT NULL,
    CONSTRAINT audit_key_pkey PRIMARY KEY (log_index, tenant_id),
    CONSTRAINT audit_key_log_index_range CHECK (log_index >= 0),
    CONSTRAINT audit_key_subject_size CHECK (octet_length(subject) = 32),
    CONSTRAINT audit_key_sealed_key_size CHECK (octet_length(sealed_key) BETWEEN 48 AND 128)
);

-- Leaf hashes of entries that were archived and dropped; read by proofs beside those of audit_entry.
CREATE TABLE IF NOT EXISTS qflare.archived_leaf (
    log_index bigint NOT NULL,
    leaf_hash bytea  NOT NULL,
    CONSTRAINT archived_leaf_pkey PRIMARY KEY (log_index),
    CONSTRAINT archived_leaf_log_index_range CHECK (log_index >= 0),
    CONSTRAINT archived_leaf_leaf_hash_size CHECK (octet_length(leaf_hash) = 32)
);

-- One row: size of the log and roots of its complete subtrees, largest first; locked last by every append.
CREATE TABLE IF NOT EXISTS qflare.log_head (
    only_row boolean NOT NULL DEFAULT true,
    size     qflare.log_head_size NOT NULL DEFAULT 0,
    frontier qflare.log_head_frontier NOT NULL DEFAULT '',
    headed_from bigint,            -- index of the first heading: from it on every session stands under one
    CONSTRAINT log_head_pkey PRIMARY KEY (only_row),
    CONSTRAINT log_head_only_row CHECK (only_row),
    CONSTRAINT log_head_headed_from_range CHECK (headed_from >= 0)
);

-- Hashes of complete subtrees above the leaves (RFC 9162); read by inclusion and consistency proofs.
CREATE TABLE IF NOT EXISTS qflare.log_node (
    level      qflare.log_node_level NOT NULL,
    node_index qflare.log_node_node_index NOT NULL,
    hash       qflare.log_node_hash NOT NULL,
    leaf_pair  bytea,              -- of level 1: both leaf hashes below, so that a check can tell which of two is another
    CONSTRAINT log_node_pkey PRIMARY KEY (level, node_index),
    CONSTRAINT log_node_leaf_pair_size CHECK (leaf_pair IS NULL OR (level = 1 AND octet_length(leaf_pair) = 64))
);

-- Signed heads of the log; read by auditors, witnesses and the dashboard.
CREATE TABLE IF NOT EXISTS qflare.checkpoint (
    size       bigint      NOT NULL,
    root       bytea       NOT NULL,
    time_s     bigint      NOT NULL,
    signature  bytea       NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT checkpoint_pkey PRIMARY KEY (size),
    CONSTRAINT checkpoint_size_range CHECK (size >= 1),
    CONSTRAINT checkpoint_root_size CHECK (octet_length(root) = 32),
    CONSTRAINT checkpoint_time_range CHECK (time_s >= 1),
    CONSTRAINT checkpoint_signature_size CHECK (octet_length(signature) = 2420)
);
ALTER TABLE qflare.checkpoint ALTER COLUMN signature SET STORAGE EXTERNAL;

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

-- People who may look at a tenant's page, and what their secrets are compared with (scrypt, RFC 7914); read at each
-- login and, for the state, at each look.
CREATE TABLE IF NOT EXISTS qflare.operator (
    tenant_id        uuid        NOT NULL,
    name             text        NOT NULL COLLATE "C",
    salt             bytea       NOT NULL,
    log2_n           integer     NOT NULL,
    r                integer     NOT NULL,
    p                integer     NOT NULL,
    secret_hash      bytea       NOT NULL,
    state            text        NOT NULL DEFAULT 'active',
    state_reason     text        NOT NULL DEFAULT '',
    state_changed_at timestamptz,       -- null in its first state, since created_at
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT operator_pkey PRIMARY KEY (name, tenant_id),
    CONSTRAINT operator_of_tenant FOREIGN KEY (tenant_id) REFERENCES qflare.tenant (tenant_id),
    CONSTRAINT operator_name_size CHECK (octet_length(name) BETWEEN 1 AND 255),
    CONSTRAINT operator_salt_size CHECK (octet_length(salt) = 16),
    CONSTRAINT operator_cost_range CHECK (log2_n BETWEEN 10 AND 20 AND r BETWEEN 1 AND 16 AND p BETWEEN 1 AND 16),
    CONSTRAINT operator_secret_hash_size CHECK (octet_length(secret_hash) = 32),
    CONSTRAINT operator_state_known CHECK (state IN ('active', 'revoked')),
    CONSTRAINT operator_state_reason_size CHECK (octet_length(state_reason) <= 1000)
);

-- What the detector found: one row for the same signal about the same device (subject: its ref, empty for the tenant's
-- fleet) until it is closed.  Written by the workers' detectors, read and moved by operators.
CREATE TABLE IF NOT EXISTS qflare.incident (
    tenant_id     uuid        NOT NULL,
    incident_id   uuid        NOT NULL,
    signal        text        NOT NULL,
    severity      text        NOT NULL,
    subject       bytea       NOT NULL,
    device_id     text,
    first_seen_at timestamptz NOT NULL,
    last_seen_at  timestamptz NOT NULL,
    seen          bigint      NOT NULL,
    evidence      bytea       NOT NULL,
    state         text        NOT NULL DEFAULT 'open',
    changed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    note          text        NOT NULL DEFAULT '',
    changed_by    text        COLLATE "C",
    CONSTRAINT incident_pkey PRIMARY KEY (incident_id, tenant_id),
    CONSTRAINT incident_of_tenant FOREIGN KEY (tenant_id) REFERENCES qflare.tenant (tenant_id),
    CONSTRAINT incident_changed_by_operator FOREIGN KEY (changed_by, tenant_id)
        REFERENCES qflare.operator (name, tenant_id),
    CONSTRAINT incident_signal_size CHECK (octet_length(signal) BETWEEN 1 AND 64),
    CONSTRAINT incident_severity_known CHECK (severity IN ('debug', 'info', 'warning', 'error', 'critical')),
    CONSTRAINT incident_subject_size CHECK (octet_length(subject) IN (0, 32)),
    CONSTRAINT incident_device_id_size CHECK (octet_length(device_id) BETWEEN 1 AND 255),
    CONSTRAINT incident_seen_in_order CHECK (first_seen_at <= last_seen_at),
    CONSTRAINT incident_seen_range CHECK (seen >= 1),
    CONSTRAINT incident_evidence_size CHECK (octet_length(evidence) BETWEEN 2 AND 4096),
    CONSTRAINT incident_state_known CHECK (state IN ('open', 'acknowledged', 'closed')),
    CONSTRAINT incident_note_size CHECK (octet_length(note) <= 1000)
);

-- What the detector remembers of a tenant, at most one row each: read by a worker at its start, replaced every few
-- minutes and at its end; state_version tells whether another worker was quicker.
CREATE TABLE IF NOT EXISTS qflare.detector_state (
    tenant_id     uuid        NOT NULL,
    state_version bigint      NOT NULL,
    state         bytea       NOT NULL,
    saved_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT detector_state_pkey PRIMARY KEY (tenant_id),
    CONSTRAINT detector_state_of_tenant FOREIGN KEY (tenant_id) REFERENCES qflare.tenant (tenant_id),
    CONSTRAINT detector_state_version_range CHECK (state_version >= 1),
    CONSTRAINT detector_state_size CHECK (octet_length(state) BETWEEN 1 AND 1048576)
);

-- What each worker's detector counted between two exchanges; read by the others' within seconds, and deleted by whichever
-- worker comes by after minutes.
CREATE TABLE IF NOT EXISTS qflare.detector_share (
    worker_id    uuid        NOT NULL,
    share_number bigint      NOT NULL,
    counts       bytea       NOT NULL,
    written_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT detector_share_pkey PRIMARY KEY (worker_id, share_number),
    CONSTRAINT detector_share_number_range CHECK (share_number >= 1),
    CONSTRAINT detector_share_counts_size CHECK (octet_length(counts) BETWEEN 1 AND 1048576)
);

-- How far each worker's clock is off the database's, in milliseconds; read by the other workers at each look.
CREATE TABLE IF NOT EXISTS qflare.detector_clock (
    worker_id uuid        NOT NULL,
    offset_ms bigint      NOT NULL,
    noted_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT detector_clock_pkey PRIMARY KEY (worker_id)
);

-- When each worker that serves devices last said so; read by all of them while a limit stands.  Of no tenant.
CREATE TABLE IF NOT EXISTS qflare.worker_beat (
    worker_id uuid        NOT NULL,
    beaten_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT worker_beat_pkey PRIMARY KEY (worker_id)
);

-- Whether what nothing takes back needs two operators of the tenant also where it is done by hand: no row, or is_on false,
-- says no.  Written by operators, one to turn it on and two to turn it off; read whenever a device or the identity ends.
CREATE TABLE IF NOT EXISTS qflare.two_person_control (
    tenant_id  uuid        NOT NULL,
    is_on      boolean     NOT NULL,
    changed_by text        NOT NULL COLLATE "C",
    changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    off_by     text        COLLATE "C",          -- who asked that it be turned off
    off_at     timestamptz,
    CONSTRAINT two_person_control_pkey PRIMARY KEY (tenant_id),
    CONSTRAINT two_person_control_of_tenant FOREIGN KEY (tenant_id) REFERENCES qflare.tenant (tenant_id),
    CONSTRAINT two_person_control_changed_by_operator FOREIGN KEY (changed_by, tenant_id)
        REFERENCES qflare.operator (name, tenant_id),
    CONSTRAINT two_person_control_off_by_operator FOREIGN KEY (off_by, tenant_id)
        REFERENCES qflare.operator (name, tenant_id),
    CONSTRAINT two_person_control_off_pair CHECK ((off_by IS NULL) = (off_at IS NULL)),
    -- One person alone ends it never.
    CONSTRAINT two_person_control_two_persons CHECK (is_on OR (off_by IS NOT NULL AND off_by <> changed_by))
);

-- What is done about an incident: proposed, wanted by operators, carried out in the transaction that notes it, undone.
-- Written by operators and by the workers' playbooks, read by both and, of limits, by every worker.
CREATE TABLE IF NOT EXISTS qflare.response (
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

-- Indexes beyond the keys ----------------------------------------------------------------------------------------------

-- Read by head_sessions (at most four live sessions a device) and by the end of a device's sessions.
CREATE INDEX IF NOT EXISTS session_live_by_device ON qflare.session (ref, tenant_id) WHERE state = 'live';
-- Read by the turn, which seals reply keys again in order of request.
CREATE INDEX IF NOT EXISTS reply_key_by_bucket ON qflare.reply_key (bucket, request_id);
-- Read by the clean-up of replies that never came.
CREATE INDEX IF NOT EXISTS reply_key_by_expiry ON qflare.reply_key (expires_bucket);
-- Read by the count of a session's outstanding replies.
CREATE INDEX IF NOT EXISTS reply_key_by_session ON qflare.reply_key (sid, tenant_id);
-- Read by a tenant's listing of its own entries.
CREATE INDEX IF NOT EXISTS audit_entry_by_tenant ON qflare.audit_entry (tenant_id, log_index);
-- Read when a subject is erased.
CREATE INDEX IF NOT EXISTS audit_key_by_subject ON qflare.audit_key (subject, tenant_id);
-- Read by the dashboard's counts; entries come in order of time, so a summary of pages is enough.
CREATE INDEX IF NOT EXISTS audit_entry_by_time ON qflare.audit_entry USING brin (recorded_at);
-- Read by a tenant's listing of its tokens.
CREATE INDEX IF NOT EXISTS enrolment_token_by_tenant ON qflare.enrolment_token (tenant_id, token_id);
-- Read by the listing of buckets' keys.
CREATE INDEX IF NOT EXISTS bucket_record_by_bucket ON qflare.bucket_record (bucket, created_at);
-- Read by a turn, which moves the buckets' keys on.
CREATE INDEX IF NOT EXISTS bucket_record_undestroyed ON qflare.bucket_record (bucket) WHERE state <> 'destroyed';
-- Read by drop_changes.
CREATE INDEX IF NOT EXISTS change_by_time ON qflare.change (changed_at);

-- Read by the policies' walk over one tenant's devices, a page at a time.
CREATE INDEX IF NOT EXISTS device_by_tenant ON qflare.device (tenant_id, ref);
-- Read when keys are marked: how many were marked within the last minute.
CREATE INDEX IF NOT EXISTS rotation_mark_by_time ON qflare.rotation_mark (tenant_id, marked_at);

-- Of the same signal about the same device one is not closed; read by every report.
CREATE UNIQUE INDEX IF NOT EXISTS incident_not_closed_once ON qflare.incident (subject, signal, tenant_id)
 WHERE state <> 'closed';
-- Read by a tenant's listing of its incidents, the last seen first.
CREATE INDEX IF NOT EXISTS incident_by_time ON qflare.incident (tenant_id, last_seen_at);

-- Read by a tenant's listing of its responses, the last asked for first.
CREATE INDEX IF NOT EXISTS response_by_time ON qflare.response (tenant_id, asked_at);
-- Read with an incident.
CREATE INDEX IF NOT EXISTS response_by_incident ON qflare.response (incident_id, tenant_id);
-- Read when a device is to be shut out: how many were within the hour, and how many stand.
CREATE INDEX IF NOT EXISTS response_shuts_out ON qflare.response (tenant_id, applied_at) WHERE action IN ('quarantine', 'revoke');
-- Read by every worker: the limits that stand.
CREATE INDEX IF NOT EXISTS response_limits ON qflare.response (action) WHERE state = 'applied' AND per_minute IS NOT NULL;

-- Read by the clean-up: closed incidents, the oldest first.
CREATE INDEX IF NOT EXISTS incident_closed ON qflare.incident (changed_at) WHERE state = 'closed';
-- Read by metrics and the clean-up: the responses that changed within the last day.
CREATE INDEX IF NOT EXISTS response_by_change ON qflare.response (changed_at);
-- Read by metrics: the proposals that wait for people.
CREATE INDEX IF NOT EXISTS response_waiting ON qflare.response (asked_at) WHERE state = 'proposed';

-- Partitions: fixed rings, so that nothing at run time creates or drops a table ------------------------------------------
DO $$
DECLARE
    v_parent text;
    v_slot   integer;
    v_leaf   text;
BEGIN
    FOREACH v_parent IN ARRAY ARRAY['handshake', 'session_state', 'session_page', 'stream', 'session',
                                    'session_route', 'call'] LOOP
        FOR v_slot IN 0 .. CASE WHEN v_parent IN ('session', 'session_route', 'call') THEN 3 ELSE 7 END LOOP
            v_leaf := format('%s_slot_%s', v_parent, v_slot);
            EXECUTE format('CREATE TABLE IF NOT EXISTS qflare.%I PARTITION OF qflare.%I FOR VALUES IN (%s)',
                           v_leaf, v_parent, v_slot);
            -- Nobody reads a partition by its own name: it has security on and no policy.
            EXECUTE format('ALTER TABLE qflare.%I ENABLE ROW LEVEL SECURITY', v_leaf);
            EXECUTE format('ALTER TABLE qflare.%I FORCE ROW LEVEL SECURITY', v_leaf);
        END LOOP;
    END LOOP;
END
$$;

-- Row-level security -------------------------------------------------------------------------------------------------
DO $$
DECLARE
    v_table text;
BEGIN
    FOREACH v_table IN ARRAY ARRAY['tenant', 'device', 'device_key', 'handshake', 'session', 'session_route',
                                   'session_state', 'session_page', 'stream', 'reply_key', 'session_count',
                                   'enrolment_token', 'audit_entry', 'rotation_policy', 'rotation_mark',
                                   'device_use', 'call', 'device_count', 'device_key_move', 'device_psk',
                                   'device_psk_move', 'change', 'incident', 'detector_state', 'operator',
                                   'audit_key', 'response', 'two_person_control'] LOOP
        EXECUTE format('ALTER TABLE qflare.%I ENABLE ROW LEVEL SECURITY', v_table);
        EXECUTE format('ALTER TABLE qflare.%I FORCE ROW LEVEL SECURITY', v_table);
        -- An unset tenant is NULL and equals nothing; the sub-select is evaluated once a statement.
        EXECUTE format('DROP POLICY IF EXISTS %I ON qflare.%I', v_table || '_of_tenant', v_table);
        EXECUTE format(
            $policy$CREATE POLICY %I ON qflare.%I TO qflare_app
                USING (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))
                WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))$policy$,
            v_table || '_of_tenant', v_table);
        EXECUTE format('DROP POLICY IF EXISTS %I ON qflare.%I', v_table || '_for_auditor', v_table);
        EXECUTE format('CREATE POLICY %I ON qflare.%I FOR SELECT TO qflare_auditor USING (true)',
                       v_table || '_for_auditor', v_table);
    END LOOP;
    FOREACH v_table IN ARRAY ARRAY['tenant', 'session', 'session_route', 'session_state', 'session_page',
                                   'reply_key', 'session_count', 'audit_entry', 'rotation_policy', 'response', 'incident'] LOOP
        EXECUTE format('DROP POLICY IF EXISTS %I ON qflare.%I', v_table || '_for_maintenance', v_table);
        EXECUTE format('CREATE POLICY %I ON qflare.%I FOR SELECT TO qflare_maintenance USING (true)',
                       v_table || '_for_maintenance', v_table);
    END LOOP;
END
$$;
DROP POLICY IF EXISTS session_state_turned ON qflare.session_state;
CREATE POLICY session_state_turned ON qflare.session_state FOR INSERT TO qflare_maintenance WITH CHECK (true);
DROP POLICY IF EXISTS session_page_turned ON qflare.session_page;
CREATE POLICY session_page_turned ON qflare.session_page FOR INSERT TO qflare_maintenance WITH CHECK (true);
DROP POLICY IF EXISTS reply_key_turned ON qflare.reply_key;
CREATE POLICY reply_key_turned ON qflare.reply_key FOR UPDATE TO qflare_maintenance USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS reply_key_dropped ON qflare.reply_key;
CREATE POLICY reply_key_dropped ON qflare.reply_key FOR DELETE TO qflare_maintenance USING (true);
DROP POLICY IF EXISTS change_for_maintenance ON qflare.change;
CREATE POLICY change_for_maintenance ON qflare.change TO qflare_maintenance USING (true);

DROP POLICY IF EXISTS audit_entry_archived ON qflare.audit_entry;
CREATE POLICY audit_entry_archived ON qflare.audit_entry FOR DELETE TO qflare_maintenance USING (true);

DROP POLICY IF EXISTS incident_dropped ON qflare.incident;
CREATE POLICY incident_dropped ON qflare.incident FOR DELETE TO qflare_maintenance USING (true);
DROP POLICY IF EXISTS response_dropped ON qflare.response;
CREATE POLICY response_dropped ON qflare.response FOR DELETE TO qflare_maintenance USING (true);
DROP POLICY IF EXISTS incident_erased ON qflare.incident;
CREATE POLICY incident_erased ON qflare.incident FOR UPDATE TO qflare_maintenance USING (true) WITH CHECK (true);
DROP POLICY IF EXISTS response_erased ON qflare.response;
CREATE POLICY response_erased ON qflare.response FOR UPDATE TO qflare_maintenance USING (true) WITH CHECK (true);

-- Privileges -----------------------------------------------------------------------------------------------------------
REVOKE ALL ON ALL TABLES IN SCHEMA qflare FROM PUBLIC, qflare_app, qflare_auditor, qflare_maintenance;
GRANT SELECT ON ALL TABLES IN SCHEMA qflare TO qflare_auditor;
GRANT SELECT ON qflare.schema_version TO qflare_app;
GRANT SELECT, INSERT ON qflare.tenant, qflare.server_identity, qflare.handshake, qflare.stream, qflare.session_route,
      qflare.session_state, qflare.audit_entry, qflare.log_node, qflare.checkpoint, qflare.call TO qflare_app;
GRANT SELECT, INSERT, DELETE ON qflare.bucket_key, qflare.reply_key, qflare.audit_key TO qflare_app;
-- An announcement is signed again when the announce key changes (A3); a deactivated key's signing half goes.
GRANT UPDATE (announcement) ON qflare.bucket_key TO qflare_app;
GRANT UPDATE (sealed_root, sealed_announce, sealed_log) ON qflare.server_identity TO qflare_app;
GRANT SELECT, INSERT, UPDATE ON qflare.server_key TO qflare_app;
GRANT SELECT, INSERT, UPDATE ON qflare.device, qflare.device_key, qflare.session, qflare.session_count,
      qflare.enrolment_token, qflare.rotation_mark, qflare.device_use TO qflare_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON qflare.rotation_policy TO qflare_app;
GRANT SELECT, UPDATE ON qflare.bucket_mark, qflare.log_head, qflare.store_pulse TO qflare_app;
GRANT SELECT ON qflare.tenant, qflare.session, qflare.session_route, qflare.session_state, qflare.session_count,
      qflare.audit_entry, qflare.bucket_key, qflare.bucket_mark, qflare.rotation_policy, qflare.response, qflare.incident
      TO qflare_maintenance;
GRANT INSERT ON qflare.session_state TO qflare_maintenance;
GRANT SELECT, DELETE ON qflare.bucket_turn TO qflare_app;
GRANT SELECT ON qflare.session_page TO qflare_app;
GRANT SELECT, INSERT ON qflare.session_page TO qflare_maintenance;
GRANT SELECT, INSERT, UPDATE ON qflare.bucket_turn TO qflare_maintenance;
GRANT SELECT, UPDATE, DELETE ON qflare.reply_key TO qflare_maintenance;
GRANT SELECT ON qflare.bucket_record, qflare.bucket_record_move, qflare.server_key_move TO qflare_app;
GRANT SELECT, INSERT ON qflare.device_key_move, qflare.device_psk_move, qflare.change TO qflare_app;
GRANT SELECT, INSERT, UPDATE ON qflare.device_psk TO qflare_app;
GRANT SELECT, INSERT, UPDATE ON qflare.device_count TO qflare_app;
GRANT SELECT, DELETE ON qflare.change TO qflare_maintenance;
GRANT SELECT, DELETE ON qflare.audit_entry TO qflare_maintenance;
GRANT SELECT, INSERT ON qflare.archived_leaf TO qflare_maintenance;
GRANT SELECT ON qflare.checkpoint TO qflare_maintenance;
GRANT SELECT, INSERT, UPDATE ON qflare.incident, qflare.detector_state, qflare.operator, qflare.two_person_control
      TO qflare_app;
-- UPDATE of shares to lock those that are deleted; none is ever changed.
GRANT SELECT, INSERT, UPDATE, DELETE ON qflare.detector_share, qflare.detector_clock, qflare.worker_beat TO qflare_app;
-- What was asked for stays as it was asked, until its device is erased; what became of it is added.
GRANT SELECT, INSERT ON qflare.response TO qflare_app;
GRANT UPDATE (needs_two, first_by, second_by, state, before, changed, until_at, changed_at, applied_at, ended_by,
              ended_because) ON qflare.response TO qflare_app;
GRANT UPDATE (device_id, note, evidence) ON qflare.incident TO qflare_maintenance;
GRANT UPDATE (device_id, reason, ended_because) ON qflare.response TO qflare_maintenance;
GRANT DELETE ON qflare.incident, qflare.response TO qflare_maintenance;

-- Rows that always exist -----------------------------------------------------------------------------------------------
INSERT INTO qflare.bucket_mark DEFAULT VALUES ON CONFLICT DO NOTHING;
INSERT INTO qflare.log_head DEFAULT VALUES ON CONFLICT DO NOTHING;
INSERT INTO qflare.store_pulse DEFAULT VALUES ON CONFLICT DO NOTHING;
-- The default tenant; forced row-level security holds for the owner too, so the application's role writes it.
SET LOCAL ROLE qflare_app;
SET LOCAL qflare.tenant = '00000000-0000-0000-0000-000000000000';
INSERT INTO qflare.tenant (tenant_id, name)
VALUES ('00000000-0000-0000-0000-000000000000', 'default') ON CONFLICT DO NOTHING;
SET LOCAL qflare.tenant = '';
SET LOCAL ROLE qflare_owner;

-- severity_rank: how grave a severity is, 1 the least.
CREATE OR REPLACE FUNCTION qflare.severity_rank(p_severity text) RETURNS integer
LANGUAGE sql IMMUTABLE AS $$
    SELECT array_position(ARRAY['debug', 'info', 'warning', 'error', 'critical'], p_severity)
$$;

-- Legal states and moves (NIST SP 800-57 part 1, section 7) --------------------------------------------------------------

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
DO $$
DECLARE
    v_guard record;
BEGIN
    FOR v_guard IN SELECT * FROM (VALUES
        ('device', 'key', $w$NEW.state NOT IN ('pre-active', 'active')$w$),
        ('device_key', 'key', $w$NEW.state NOT IN ('pre-active', 'active')$w$),
        ('device_psk', 'key', $w$NEW.state NOT IN ('pre-active', 'active')$w$),
        ('server_key', 'key', $w$NEW.state NOT IN ('pre-active', 'active')$w$),
        ('bucket_record', 'key', $w$NEW.state NOT IN ('pre-active', 'active')$w$),
        ('session', 'session', $w$NEW.state <> 'live'$w$),
        ('enrolment_token', 'token', $w$NEW.state <> 'active'$w$),
        ('operator', 'token', $w$NEW.state <> 'active'$w$),
        ('response', 'response', $w$NEW.state <> 'proposed'$w$))
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

-- Refuse that two-person control ends without having been asked for before, within a day, by an operator who still is one.
CREATE OR REPLACE FUNCTION qflare.refuse_sudden_end() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.off_by IS NULL OR NEW.off_by <> OLD.off_by OR OLD.off_at < clock_timestamp() - interval '1 day'
       OR EXISTS (SELECT FROM qflare.operator AS o
                   WHERE o.tenant_id = NEW.tenant_id AND o.name IN (OLD.off_by, NEW.changed_by) AND o.state <> 'active') THEN
        RAISE EXCEPTION 'two operators turn two-person control off'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'two_person_control_asked_before', TABLE = 'two_person_control';
    END IF;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER two_person_control_asked_before BEFORE UPDATE OF is_on ON qflare.two_person_control FOR EACH ROW
    WHEN (OLD.is_on AND NOT NEW.is_on) EXECUTE FUNCTION qflare.refuse_sudden_end();

-- Where two-person control is on, refuse what nothing takes back unless a response that two operators want does it.
-- Of a device: the response stands as proposed until its transaction ends; of the identity: as begun.
CREATE OR REPLACE FUNCTION qflare.refuse_single_hand() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    v_tenant uuid  := '00000000-0000-0000-0000-000000000000';
    v_ref    bytea;
BEGIN
    IF TG_TABLE_NAME = 'device' THEN
        v_tenant := NEW.tenant_id;
        v_ref := NEW.ref;
    ELSIF NOT EXISTS (SELECT FROM qflare.server_identity) THEN
        RETURN NEW;                              -- the first identity: there is nobody yet
    END IF;
    IF NOT EXISTS (SELECT FROM qflare.two_person_control AS c WHERE c.tenant_id = v_tenant AND c.is_on) THEN
        RETURN NEW;
    END IF;
    IF EXISTS (
        SELECT FROM qflare.response AS r
         WHERE r.tenant_id = v_tenant AND r.needs_two AND r.second_by IS NOT NULL
           AND r.action = CASE TG_TABLE_NAME WHEN 'device' THEN 'revoke' ELSE 'rotate-identity' END
           AND r.state = CASE TG_TABLE_NAME WHEN 'device' THEN 'proposed' ELSE 'begun' END
           AND r.ref IS NOT DISTINCT FROM v_ref
           AND r.expires_at > clock_timestamp()
           AND NOT EXISTS (SELECT FROM qflare.operator AS o
                            WHERE o.tenant_id = v_tenant AND o.name IN (r.first_by, r.second_by)
                              AND o.state <> 'active')) THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'two operators must want this'
        USING ERRCODE = 'check_violation', CONSTRAINT = TG_TABLE_NAME || '_two_persons', TABLE = TG_TABLE_NAME;
END
$$;
CREATE OR REPLACE TRIGGER device_two_persons BEFORE UPDATE OF state ON qflare.device FOR EACH ROW
    WHEN (OLD.state IN ('pre-active', 'active', 'suspended') AND NEW.state IN ('deactivated', 'compromised', 'destroyed'))
    EXECUTE FUNCTION qflare.refuse_single_hand();
-- A root that is kept offline signs by another hand already.
CREATE OR REPLACE TRIGGER server_identity_two_persons BEFORE INSERT ON qflare.server_identity FOR EACH ROW
    WHEN (NEW.sealed_root IS NOT NULL) EXECUTE FUNCTION qflare.refuse_single_hand();

-- Refuse a psk that does not follow the one before: its version rises with each, and never falls.  Version 0 is what
-- workers before version 10 of this schema write.
CREATE OR REPLACE FUNCTION qflare.refuse_older_psk() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.psk_version < OLD.psk_version
       OR (NEW.psk_version = OLD.psk_version AND OLD.psk_version > 0
           AND NEW.sealed_psk IS DISTINCT FROM OLD.sealed_psk) THEN
        RAISE EXCEPTION 'the psk of a device follows the one before'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'device_psk_version_rises', TABLE = 'device';
    END IF;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER device_psk_version_rises BEFORE UPDATE OF sealed_psk, psk_version ON qflare.device
    FOR EACH ROW EXECUTE FUNCTION qflare.refuse_older_psk();

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
-- By the bucket, not by the announcement: that may have been signed again since the record was made (A3).
CREATE OR REPLACE FUNCTION qflare.end_bucket_key() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_key    record;
    v_reason CONSTANT text := CASE
        WHEN OLD.bucket < (SELECT m.bucket FROM qflare.bucket_mark AS m) THEN 'its bucket is over'
        ELSE 'removed before its bucket was over' END;
BEGIN
    FOR v_key IN SELECT k.fingerprint, k.state FROM qflare.bucket_record AS k
                  WHERE k.bucket = OLD.bucket AND k.state <> 'destroyed' LOOP
        -- An active key has no way to destroyed but by being deactivated.
        IF v_key.state = 'active' THEN
            PERFORM qflare.move_bucket_record(v_key.fingerprint, 'deactivated', v_reason);
        END IF;
        PERFORM qflare.move_bucket_record(v_key.fingerprint, 'destroyed', v_reason);
    END LOOP;
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

-- A certificate makes the keys in it active, those that waited for it among them; its root is noted once.
CREATE OR REPLACE FUNCTION qflare.note_identity_keys() RETURNS trigger
LANGUAGE plpgsql AS $$
DECLARE
    -- docs/protocol.md, A1: where CERT holds its two keys, counted from 1.
    v_announce CONSTANT bytea := substr(NEW.certificate, 51, 1312);
    v_log      CONSTANT bytea := substr(NEW.certificate, 1363, 1312);
    v_reason   CONSTANT text  := 'certificate of serial ' || NEW.serial;
BEGIN
    INSERT INTO qflare.server_key AS k (key_id, serial, kind, public_key, state, state_reason)
    VALUES (sha256(v_announce), NEW.serial, 'announce', v_announce, 'active', v_reason),
           (sha256(v_log), NEW.serial, 'log', v_log, 'active', v_reason)
    ON CONFLICT (key_id) DO UPDATE
       SET state = 'active', state_reason = v_reason, state_changed_at = clock_timestamp(), sealed_key = NULL
     WHERE k.serial = EXCLUDED.serial AND k.kind = EXCLUDED.kind AND k.state = 'pre-active';
    IF (SELECT count(*) FROM qflare.server_key AS k
         WHERE k.serial = NEW.serial AND k.kind IN ('announce', 'log') AND k.state = 'active'
           AND k.public_key = CASE k.kind WHEN 'log' THEN v_log ELSE v_announce END) <> 2
    THEN
        RAISE EXCEPTION 'the certificate of serial % has keys of another one', NEW.serial
            USING ERRCODE = 'check_violation', CONSTRAINT = 'server_key_of_certificate', TABLE = 'server_key';
    END IF;
    INSERT INTO qflare.server_key (key_id, serial, kind, public_key, state, state_reason)
    VALUES (sha256(NEW.root_key), NEW.serial, 'root', NEW.root_key, 'active', v_reason)
    ON CONFLICT (key_id) DO NOTHING;
    RETURN NEW;
END
$$;
CREATE OR REPLACE TRIGGER server_identity_keys AFTER INSERT ON qflare.server_identity
    FOR EACH ROW EXECUTE FUNCTION qflare.note_identity_keys();

-- Functions of the application: each is one transaction's work in one round trip ----------------------------------------

-- Become the application's role inside one tenant until the transaction ends, whoever logged in; returns true.
-- Called where a variable is declared: an expression costs a tenth of what a statement does (decision 0030).
CREATE OR REPLACE FUNCTION qflare.enter(p_tenant uuid) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    v_role   CONSTANT text := set_config('role', 'qflare_app', true);
    v_tenant CONSTANT text := set_config('qflare.tenant', p_tenant::text, true);
    -- A plan made while a table was empty outlives that by a minute or more. Never one that reads it whole,
    -- nor one that compares every row of a batch with every other: look-ups by key are written as LATERAL
    -- with LIMIT, for which loops are the only way, and stay loops (decision 0024).
    v_seqscan  CONSTANT text := set_config('enable_seqscan', 'off', true);
    v_nestloop CONSTANT text := set_config('enable_nestloop', 'off', true);
    -- There is one way to each row, so planning again for each call's values finds nothing better.
    v_plans    CONSTANT text := set_config('plan_cache_mode', 'force_generic_plan', true);
    -- What is answered must be on the disk: a crash would else undo sessions that were confirmed, and fork the log.
    v_commit   CONSTANT text := CASE current_setting('synchronous_commit')
                                WHEN 'off' THEN set_config('synchronous_commit', 'on', true) END;
BEGIN
    RETURN true;
END
$$;

-- Hold the slots of these buckets against drop_buckets, then say which of the buckets live.
CREATE OR REPLACE FUNCTION qflare.hold_buckets(p_buckets bigint[]) RETURNS bigint[]
LANGUAGE plpgsql AS $$
DECLARE
    v_bucket  bigint;
    v_last    bigint;
    v_buckets bigint[] := '{}';     -- without repetitions in a row
    v_slots   integer  := 0;        -- one bit a slot
BEGIN
    FOREACH v_bucket IN ARRAY p_buckets LOOP
        IF v_bucket IS DISTINCT FROM v_last THEN
            v_last := v_bucket;
            v_buckets := v_buckets || v_bucket;
            v_slots := v_slots | (1 << (v_bucket % 8)::integer);
        END IF;
    END LOOP;
    FOR v_slot IN 0 .. 7 LOOP
        IF v_slots & (1 << v_slot) <> 0 THEN
            PERFORM pg_advisory_xact_lock_shared(1363561217, v_slot);
        END IF;
    END LOOP;
    -- A statement of its own: its snapshot is younger than the locks.
    RETURN ARRAY(SELECT k.bucket FROM qflare.bucket_key AS k WHERE k.bucket = ANY (v_buckets));
END
$$;

-- Add leaves to the tree: the new complete subtrees, and the new head (RFC 9162, section 2.1).
-- p_size and p_frontier are the locked head's, p_leaves the new leaf hashes behind each other in order.
CREATE OR REPLACE FUNCTION qflare.extend_tree(p_size bigint, p_frontier bytea, p_leaves bytea) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    v_nodes    bytea      := p_leaves;                  -- of this level, behind each other: a pair is 64 bytes
    v_count    integer    := octet_length(p_leaves) / 32;
    v_first    bigint     := p_size;                    -- index of the first one
    v_unread   integer    := octet_length(p_frontier);  -- frontier nodes of lower levels are taken already
    v_frontier bytea      := '';
    v_level    smallint   := 0;
    v_pairs    integer;
    v_made     bytea      := '';                        -- new nodes of all levels above the leaves
    v_leaves   bytea;                                   -- of the new nodes of level 1, which come first
    v_levels   smallint[] := '{}';
    v_indexes  bigint[]   := '{}';
BEGIN
    LOOP
        IF v_first % 2 = 1 THEN                         -- the first one completes a pair that the frontier begins
            v_nodes := substring(p_frontier FROM v_unread - 31 FOR 32) || v_nodes;
            v_unread := v_unread - 32;
            v_count := v_count + 1;
        END IF;
        v_pairs := v_count / 2;
        IF v_count % 2 = 1 THEN                         -- no sibling yet: the last one stays in the frontier
            v_frontier := substring(v_nodes FROM 32 * v_count - 31) || v_frontier;
        END IF;
        EXIT WHEN v_pairs = 0;
        v_leaves := coalesce(v_leaves, v_nodes);
        v_level := v_level + 1::smallint;
        v_first := v_first / 2;
        v_nodes := (SELECT string_agg(sha256('\x01'::bytea || substring(v_nodes FROM 64 * n.pair + 1 FOR 64)), ''::bytea
                                      ORDER BY n.pair)
                      FROM generate_series(0, v_pairs - 1) AS n (pair));
        v_count := v_pairs;
        v_made := v_made || v_nodes;
        v_levels := v_levels || array_fill(v_level, ARRAY[v_pairs]);
        v_indexes := v_indexes || ARRAY(SELECT generate_series(v_first, v_first + v_pairs - 1));
    END LOOP;
    IF v_made <> '' THEN
        INSERT INTO qflare.log_node (level, node_index, hash, leaf_pair)
        SELECT v_levels[n.place], v_indexes[n.place], substring(v_made FROM 32 * n.place - 31 FOR 32),
               CASE WHEN v_levels[n.place] = 1 THEN substring(v_leaves FROM 64 * n.place - 63 FOR 64) END
          FROM generate_series(1, cardinality(v_levels)) AS n (place);
    END IF;
    UPDATE qflare.log_head
       SET size     = p_size + octet_length(p_leaves) / 32,
           frontier = substring(p_frontier FROM 1 FOR v_unread) || v_frontier;
END
$$;

-- The same for leaf hashes in an array.
CREATE OR REPLACE FUNCTION qflare.extend_log(p_size bigint, p_frontier bytea, p_leaves bytea[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    -- A confirmation of version 33 that was under way during the migration writes no heading: it comes again, and has one.
    IF EXISTS (SELECT FROM qflare.log_head AS h
                 JOIN qflare.audit_entry AS e ON e.log_index = p_size AND e.entry_type = 1
                WHERE h.headed_from IS NOT NULL) THEN
        RAISE EXCEPTION USING ERRCODE = 'serialization_failure', MESSAGE = 'sessions need a heading';
    END IF;
    PERFORM qflare.extend_tree(p_size, p_frontier,
                               (SELECT string_agg(l.hash, ''::bytea ORDER BY l.place)
                                  FROM unnest(p_leaves) WITH ORDINALITY AS l (hash, place)));
END
$$;

-- Append events in order inside the caller's transaction; those with p_keep false or null are left out.
-- An entry of type 3 is told by its leaf.  Where its p_data begins with 0x02, subject (32 bytes) and sealed key (61) stand
-- in front of what the row stores, and go into a row of their own.
CREATE OR REPLACE FUNCTION qflare.write_events(
    p_tenant uuid, p_keep boolean[], p_types text[], p_severities text[], p_devices text[], p_data bytea[],
    p_leaves bytea[], p_occurred_ms bigint[], OUT first_index bigint, OUT old_frontier bytea)
LANGUAGE plpgsql AS $$
DECLARE
    v_fields CONSTANT bytea := '\x51465831204c45414603';  -- what leaf data of entry type 3 begin with
    v_made    bigint    := 0;
    v_indexes bigint[]  := '{}';    -- of each event: its place among those that are kept, null if it is left out
    v_hashes  bytea[]   := '{}';    -- of each event
    v_leaves  bytea[]   := '{}';    -- of those that are kept
    v_kinds   smallint[] := '{}';   -- entry type of each event
    v_data    bytea[]   := p_data;  -- what each row stores
    v_keyed   bigint[]  := '{}';    -- of each key: its entry's place among those that are kept
    v_keys    bytea[]   := '{}';    -- subject and sealed key of each
BEGIN
    IF NOT true = ANY (p_keep) THEN
        RETURN;
    END IF;
    FOR v_place IN 1 .. cardinality(p_leaves) LOOP
        v_hashes[v_place] := sha256('\x00'::bytea || p_leaves[v_place]);
        v_indexes[v_place] := NULL;
        v_kinds[v_place] := CASE WHEN substring(p_leaves[v_place] FROM 1 FOR 10) = v_fields THEN 3 ELSE 2 END;
        IF p_keep[v_place] THEN
            v_indexes[v_place] := v_made;
            v_made := v_made + 1;
            v_leaves[v_made] := v_hashes[v_place];
            IF v_kinds[v_place] = 3 AND substring(p_data[v_place] FROM 1 FOR 1) = '\x02' THEN
                v_keyed := v_keyed || v_indexes[v_place];
                v_keys := v_keys || substring(p_data[v_place] FROM 2 FOR 93);
                v_data[v_place] := substring(p_data[v_place] FROM 95);
            END IF;
        END IF;
    END LOOP;
    SELECT h.size, h.frontier INTO STRICT first_index, old_frontier FROM qflare.log_head AS h FOR UPDATE;
    INSERT INTO qflare.audit_entry (log_index, tenant_id, entry_type, event_type, severity, device_id,
                                    leaf_hash, leaf_data, data, recorded_at)
    SELECT first_index + e.place, p_tenant, e.kind, e.event_type, e.severity, e.device_id, e.leaf_hash, e.leaf_data,
           e.data, timestamptz 'epoch' + e.occurred_ms * interval '1 millisecond'
      FROM unnest(v_indexes, v_kinds, p_types, p_severities, p_devices, v_data, v_hashes, p_leaves, p_occurred_ms)
           AS e (place, kind, event_type, severity, device_id, data, leaf_hash, leaf_data, occurred_ms)
     WHERE e.place IS NOT NULL;
    IF cardinality(v_keyed) > 0 THEN
        INSERT INTO qflare.audit_key (log_index, tenant_id, subject, sealed_key)
        SELECT first_index + k.place, p_tenant, substring(k.key FROM 1 FOR 32), substring(k.key FROM 33)
          FROM unnest(v_keyed, v_keys) AS k (place, key);
    END IF;
    PERFORM qflare.extend_log(first_index, old_frontier, v_leaves);
END
$$;

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

-- find_calls: which of these changes were carried out, and their outcomes.
CREATE OR REPLACE FUNCTION qflare.find_calls(p_tenant uuid, p_calls uuid[])
RETURNS TABLE (call_id uuid, kind text, outcome bigint)
LANGUAGE plpgsql ROWS 4 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
BEGIN
    RETURN QUERY
    SELECT k.call_id, k.kind, k.outcome
      FROM unnest(p_calls) AS n (call_id)
     CROSS JOIN LATERAL (
           SELECT e.call_id, e.kind, e.outcome FROM qflare.call AS e
            WHERE e.call_id = n.call_id AND e.tenant_id = p_tenant LIMIT 1) AS k;
END
$$;

-- append_events: events of one tenant, nothing else, as workers before version 33 call it.
CREATE OR REPLACE FUNCTION qflare.append_events(
    p_tenant uuid, p_types text[], p_severities text[], p_devices text[], p_data bytea[], p_leaves bytea[],
    p_occurred_ms bigint[], OUT first_index bigint, OUT old_frontier bytea)
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
BEGIN
    SELECT w.first_index, w.old_frontier INTO first_index, old_frontier
      FROM qflare.write_events(p_tenant, array_fill(true, ARRAY[cardinality(p_types)]), p_types, p_severities,
                               p_devices, p_data, p_leaves, p_occurred_ms) AS w;
END
$$;

-- append_entries: entries of one tenant, nothing else; many at a time as strings behind each other, which cost a driver and
-- an array less than as many values.  Entry i is what stands between edges i and i + 1 (from 0 on) of p_data and of
-- p_leaves; p_hashes are the leaf hashes, which the rows' constraint holds against the leaves.
-- Keys of sealed entries: p_keyed are the places (from 0 on) of theirs, p_keys subject (32 bytes) and sealed key (61) of each.
CREATE OR REPLACE FUNCTION qflare.append_entries(
    p_tenant uuid, p_types text[], p_severities text[], p_devices text[], p_data bytea, p_data_edges integer[],
    p_leaves bytea, p_leaf_edges integer[], p_hashes bytea, p_occurred_ms bigint[], p_keyed bigint[], p_keys bytea,
    OUT first_index bigint, OUT old_frontier bytea)
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_fields  CONSTANT bytea   := '\x51465831204c45414603';  -- what leaf data of entry type 3 begin with
    v_count   CONSTANT integer := octet_length(p_hashes) / 32;
BEGIN
    -- A leaf more in the tree than in the table, or a byte of no entry, must not be.
    IF octet_length(p_hashes) <> 32 * v_count OR cardinality(p_types) <> v_count OR cardinality(p_severities) <> v_count
       OR cardinality(p_devices) <> v_count OR cardinality(p_occurred_ms) <> v_count
       OR cardinality(p_data_edges) <> v_count + 1 OR p_data_edges[v_count + 1] <> octet_length(p_data)
       OR cardinality(p_leaf_edges) <> v_count + 1 OR p_leaf_edges[v_count + 1] <> octet_length(p_leaves)
       OR octet_length(p_keys) <> 93 * cardinality(p_keyed) THEN
        RAISE EXCEPTION 'the columns of % entries are of different lengths', v_count USING ERRCODE = 'data_exception';
    END IF;
    SELECT h.size, h.frontier INTO STRICT first_index, old_frontier FROM qflare.log_head AS h FOR UPDATE;
    INSERT INTO qflare.audit_entry (log_index, tenant_id, entry_type, event_type, severity, device_id,
                                    leaf_hash, leaf_data, data, recorded_at)
    SELECT first_index + e.i - 1, p_tenant,
           CASE WHEN substring(p_leaves FROM p_leaf_edges[e.i] + 1 FOR 10) = v_fields THEN 3 ELSE 2 END,
           p_types[e.i], p_severities[e.i], p_devices[e.i],
           substring(p_hashes FROM 32 * e.i - 31 FOR 32),
           substring(p_leaves FROM p_leaf_edges[e.i] + 1 FOR p_leaf_edges[e.i + 1] - p_leaf_edges[e.i]),
           substring(p_data FROM p_data_edges[e.i] + 1 FOR p_data_edges[e.i + 1] - p_data_edges[e.i]),
           timestamptz 'epoch' + p_occurred_ms[e.i] * interval '1 millisecond'
      FROM generate_series(1, v_count) AS e (i);
    IF cardinality(p_keyed) > 0 THEN
        INSERT INTO qflare.audit_key (log_index, tenant_id, subject, sealed_key)
        SELECT first_index + p_keyed[k.i], p_tenant, substring(p_keys FROM 93 * k.i - 92 FOR 32),
               substring(p_keys FROM 93 * k.i - 60 FOR 61)
          FROM generate_series(1, cardinality(p_keyed)) AS k (i);
    END IF;
    PERFORM qflare.extend_tree(first_index, old_frontier, p_hashes);
END
$$;

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

-- find_roster: roster rows with their current keys.
CREATE OR REPLACE FUNCTION qflare.find_roster(p_tenant uuid, p_refs bytea[])
RETURNS TABLE (ref bytea, device_id text, state text, key_version bigint, verification_key bytea,
               encapsulation_key bytea, kem_state text, registered_at timestamptz, sealed_psk bytea,
               psk_version bigint)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
BEGIN
    RETURN QUERY
    SELECT d.ref, d.device_id, d.state::text, d.key_version::bigint, v.public_key, k.public_key, k.state::text,
           d.registered_at, d.sealed_psk, d.psk_version
      FROM qflare.device AS d
     -- LIMIT keeps each look-up a walk down the key's index, whatever the planner believes of the table.
     CROSS JOIN LATERAL (
           SELECT e.public_key FROM qflare.device_key AS e
            WHERE e.tenant_id = p_tenant AND e.ref = d.ref AND e.key_version = d.key_version
              AND e.kind = 'signature' LIMIT 1) AS v
     CROSS JOIN LATERAL (
           SELECT e.public_key, e.state FROM qflare.device_key AS e
            WHERE e.tenant_id = p_tenant AND e.ref = d.ref AND e.key_version = d.key_version
              AND e.kind = 'kem' LIMIT 1) AS k
     WHERE d.tenant_id = p_tenant
       AND d.ref = ANY (p_refs);
END
$$;

-- find_devices: the same for workers of a version before 10, which read no version of a psk.
CREATE OR REPLACE FUNCTION qflare.find_devices(p_tenant uuid, p_refs bytea[])
RETURNS TABLE (ref bytea, device_id text, state text, key_version bigint, verification_key bytea,
               encapsulation_key bytea, kem_state text, registered_at timestamptz, sealed_psk bytea)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
BEGIN
    RETURN QUERY
    SELECT d.ref, d.device_id, d.state::text, d.key_version::bigint, v.public_key, k.public_key, k.state::text,
           d.registered_at, d.sealed_psk
      FROM qflare.device AS d
     -- LIMIT keeps each look-up a walk down the key's index, whatever the planner believes of the table.
     CROSS JOIN LATERAL (
           SELECT e.public_key FROM qflare.device_key AS e
            WHERE e.tenant_id = p_tenant AND e.ref = d.ref AND e.key_version = d.key_version
              AND e.kind = 'signature' LIMIT 1) AS v
     CROSS JOIN LATERAL (
           SELECT e.public_key, e.state FROM qflare.device_key AS e
            WHERE e.tenant_id = p_tenant AND e.ref = d.ref AND e.key_version = d.key_version
              AND e.kind = 'kem' LIMIT 1) AS k
     WHERE d.tenant_id = p_tenant
       AND d.ref = ANY (p_refs);
END
$$;

-- count_ended: take sessions with these last buckets off a tenant's live ones; called under the head's lock, last.
CREATE OR REPLACE FUNCTION qflare.count_ended(p_tenant uuid, p_last_buckets bigint[]) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE qflare.session_count AS c
       SET live = c.live - (SELECT count(*) FROM unnest(p_last_buckets) AS b (last_bucket)
                             WHERE b.last_bucket = c.last_bucket)
     WHERE c.tenant_id = p_tenant AND c.last_bucket = ANY (p_last_buckets);
END
$$;

-- head_sessions: H8 for a batch of claims of one tenant; results as ClaimResult.
-- log_indexes[i] is null where no session stands. first_index and old_frontier are null if nothing was created: else the
-- heading stands at first_index, before its sessions, whose tenant and time no leaf of their own says (docs/audit.md).
CREATE OR REPLACE FUNCTION qflare.head_sessions(
    p_tenant uuid, p_forms smallint[], p_ticket_buckets bigint[], p_sids uuid[], p_refs bytea[],
    p_key_versions bigint[], p_starts bigint[], p_lifetimes integer[], p_policies bigint[], p_th3_hashes bytea[],
    p_leaf_hashes bytea[], p_leaves bytea[], p_state_buckets bigint[], p_chain_keys bytea[], p_proves_kem boolean[],
    p_now timestamptz, p_live_bucket bigint, p_heading_leaf bytea, p_heading_data bytea,
    OUT results text[], OUT log_indexes bigint[], OUT first_index bigint, OUT old_frontier bytea)
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_live    bigint[];
    v_count   integer := cardinality(p_sids);
    v_claimed uuid[];       -- whose handshake row is new,
    v_routed  uuid[];       -- and their route too: these make sessions
    v_turns   bigint[];     -- of each claim: which of the new sessions it makes, from 0; null if none
    v_leaves  bytea[];      -- leaf hashes of the new ones
    v_crowded bytea[];
    v_ended   bigint[];
    v_excess  uuid[];
    v_heading CONSTANT bytea := sha256('\x00'::bytea || p_heading_leaf);
    v_from    bigint;       -- the first heading of the log
BEGIN
    v_live := qflare.hold_buckets(p_ticket_buckets || p_state_buckets);

    -- The device rows again: a revocation comes wholly before or wholly after (stronger than the FOR SHARE of H8,
    -- because a first ANSWER changes the key's state under the same lock; decision 0025).
    SELECT array_agg(CASE WHEN c.ticket_bucket < p_live_bucket OR NOT c.ticket_bucket = ANY (v_live)
                               OR NOT c.state_bucket = ANY (v_live)  THEN 'expired'
                          WHEN l.ref IS NULL                         THEN 'unknown-device'
                          WHEN l.state <> 'active'                   THEN 'device-state'
                          WHEN l.key_version <> c.key_version        THEN 'key-version'
                     END ORDER BY c.place)
      INTO results
      FROM unnest(p_refs, p_key_versions, p_ticket_buckets, p_state_buckets) WITH ORDINALITY
           AS c (ref, key_version, ticket_bucket, state_bucket, place)
      LEFT JOIN (SELECT d.ref, d.state, d.key_version
                   FROM qflare.device AS d
                  WHERE d.tenant_id = p_tenant AND d.ref = ANY (p_refs)
                  ORDER BY d.ref
                    FOR NO KEY UPDATE) AS l ON l.ref = c.ref;

    IF array_position(results, NULL) IS NULL THEN
        log_indexes := array_fill(NULL::bigint, ARRAY[v_count]);
        RETURN;
    END IF;

    -- The handshake row: who inserts it makes the session, once for all workers and restarts.
    WITH claimed AS (
        INSERT INTO qflare.handshake (tenant_id, ticket_bucket, sid, slot, th3_hash)
        SELECT p_tenant, c.ticket_bucket, c.sid, c.ticket_bucket % 8, c.th3_hash
          FROM unnest(results, p_ticket_buckets, p_sids, p_th3_hashes) AS c (result, ticket_bucket, sid, th3_hash)
         WHERE c.result IS NULL
        ON CONFLICT DO NOTHING
        RETURNING sid)
    SELECT array_agg(k.sid) INTO v_claimed FROM claimed AS k;

    -- And the route, which makes the session's id the only one of all tenants.
    WITH routed AS (
        INSERT INTO qflare.session_route (sid, slot, tenant_id)
        SELECT DISTINCT ON (c.sid) c.sid, (c.start + c.lifetime - 1) / 192 % 4, p_tenant
          FROM unnest(results, p_sids, p_starts, p_lifetimes) WITH ORDINALITY AS c (result, sid, start, lifetime, place)
         WHERE c.result IS NULL AND c.sid = ANY (v_claimed)
         ORDER BY c.sid, c.place
        ON CONFLICT DO NOTHING
        RETURNING sid)
    SELECT array_agg(r.sid) INTO v_routed FROM routed AS r;

    IF v_routed IS NULL THEN
        log_indexes := array_fill(NULL::bigint, ARRAY[v_count]);
    ELSE
        IF cardinality(v_routed) = v_count THEN             -- what nearly always is: all of them, each once
            FOR v_place IN 1 .. v_count LOOP
                v_turns[v_place] := v_place - 1;
            END LOOP;
            v_leaves := p_leaf_hashes;
        ELSE
            WITH made AS (
                SELECT n.place, row_number() OVER (ORDER BY n.place) - 1 AS turn
                  FROM (SELECT DISTINCT ON (c.sid) c.place
                          FROM unnest(results, p_sids) WITH ORDINALITY AS c (result, sid, place)
                         WHERE c.result IS NULL AND c.sid = ANY (v_routed)
                         ORDER BY c.sid, c.place) AS n)
            SELECT array_agg(m.turn ORDER BY c.place),
                   array_agg(c.leaf_hash ORDER BY c.place) FILTER (WHERE m.turn IS NOT NULL)
              INTO v_turns, v_leaves
              FROM unnest(p_leaf_hashes) WITH ORDINALITY AS c (leaf_hash, place)
              LEFT JOIN made AS m ON m.place = c.place;
        END IF;

        INSERT INTO qflare.session_state (bucket, sid, tenant_id, slot, epoch, sealed_chain_key)
        SELECT c.bucket, c.sid, p_tenant, c.bucket % 8, 0, c.chain_key
          FROM unnest(v_turns, p_state_buckets, p_sids, p_chain_keys) AS c (turn, bucket, sid, chain_key)
         WHERE c.turn IS NOT NULL;

        -- Of a device's keys at most the current one is pre-active: rotation ends the earlier ones.
        IF true = ANY (p_proves_kem) THEN
            UPDATE qflare.device_key AS k
               SET state = 'active'
             WHERE k.tenant_id = p_tenant AND k.kind = 'kem' AND k.state = 'pre-active'
               AND k.ref = ANY (ARRAY(SELECT c.ref FROM unnest(v_turns, p_proves_kem, p_refs) AS c (turn, proves, ref)
                                       WHERE c.turn IS NOT NULL AND c.proves));
        END IF;

        -- From here on the log is locked: as little as possible, and no other lock but the counts'.
        SELECT h.size, h.frontier, h.headed_from INTO STRICT first_index, old_frontier, v_from
          FROM qflare.log_head AS h FOR UPDATE;

        INSERT INTO qflare.audit_entry (log_index, tenant_id, entry_type, event_type, severity, leaf_hash,
                                        leaf_data, data, recorded_at)
        SELECT first_index, p_tenant, get_byte(p_heading_leaf, 9), 'session_heading', 'info', v_heading, p_heading_leaf,
               p_heading_data, p_now
         UNION ALL
        SELECT first_index + 1 + c.turn, p_tenant, 1, 'key_exchange', 'info', c.leaf_hash, c.leaf_data, '{}', p_now
          FROM unnest(v_turns, p_leaf_hashes, p_leaves) AS c (turn, leaf_hash, leaf_data)
         WHERE c.turn IS NOT NULL;
        PERFORM qflare.extend_log(first_index, old_frontier, v_heading || v_leaves);
        IF v_from IS NULL THEN
            UPDATE qflare.log_head SET headed_from = first_index;
        END IF;

        INSERT INTO qflare.session (tenant_id, sid, slot, ref, key_version, form, start_bucket, last_bucket,
                                    policy, state, log_index, created_at)
        SELECT p_tenant, c.sid, (c.start + c.lifetime - 1) / 192 % 4, c.ref, c.key_version, c.form, c.start,
               c.start + c.lifetime - 1, c.policy, 'live', first_index + 1 + c.turn, p_now
          FROM unnest(v_turns, p_sids, p_refs, p_key_versions, p_forms, p_starts, p_lifetimes, p_policies)
               AS c (turn, sid, ref, key_version, form, start, lifetime, policy)
         WHERE c.turn IS NOT NULL;
        INSERT INTO qflare.session_count AS n (tenant_id, last_bucket, live, total)
        SELECT p_tenant, c.start + c.lifetime - 1, count(*), count(*)
          FROM unnest(v_turns, p_starts, p_lifetimes) AS c (turn, start, lifetime)
         WHERE c.turn IS NOT NULL
         GROUP BY c.start + c.lifetime - 1 ORDER BY c.start + c.lifetime - 1
        ON CONFLICT (tenant_id, last_bucket)
        DO UPDATE SET live = n.live + excluded.live, total = n.total + excluded.total;

        -- At most four live sessions a device: the new ones stay, those that never carried a record go first,
        -- then the oldest.
        v_crowded := ARRAY(SELECT s.ref::bytea
                             FROM qflare.session AS s
                            WHERE s.tenant_id = p_tenant
                              AND s.ref = ANY (p_refs)
                              AND s.state = 'live'
                              AND s.last_bucket >= p_live_bucket
                            GROUP BY s.ref
                           HAVING count(*) > 4);
        IF v_crowded <> '{}' THEN
            WITH ranked AS (
                SELECT s.sid,
                       row_number() OVER (PARTITION BY s.ref
                                          ORDER BY s.log_index >= head_sessions.first_index DESC,
                                                   s.carried_at IS NOT NULL DESC, s.log_index DESC) AS place
                  FROM qflare.session AS s
                 WHERE s.tenant_id = p_tenant
                   AND s.ref = ANY (v_crowded)
                   AND s.state = 'live'
                   AND s.last_bucket >= p_live_bucket)
            SELECT array_agg(r.sid) INTO v_excess FROM ranked AS r WHERE r.place > 4;
            WITH ended AS (
                UPDATE qflare.session AS s
                   SET state = 'superseded', ended_at = p_now
                 WHERE s.tenant_id = p_tenant AND s.sid = ANY (v_excess)
                RETURNING s.last_bucket)
            SELECT array_agg(e.last_bucket) INTO v_ended FROM ended AS e;
            PERFORM qflare.count_ended(p_tenant, v_ended);
        END IF;

        FOR v_place IN 1 .. v_count LOOP
            log_indexes[v_place] := first_index + 1 + v_turns[v_place];
            IF v_turns[v_place] IS NOT NULL THEN
                results[v_place] := 'created';
            END IF;
        END LOOP;
    END IF;

    -- What is undecided now was there before: the same M4 is due for the same handshake of a live session.
    IF array_position(results, NULL) IS NOT NULL THEN
        SELECT array_agg(coalesce(c.result, CASE WHEN s.sid IS NULL THEN 'conflict' ELSE 'repeated' END)
                         ORDER BY c.place),
               array_agg(coalesce(c.log_index, s.log_index) ORDER BY c.place)
          INTO results, log_indexes
          FROM unnest(results, log_indexes, p_ticket_buckets, p_sids, p_refs, p_th3_hashes) WITH ORDINALITY
               AS c (result, log_index, ticket_bucket, sid, ref, th3_hash, place)
          LEFT JOIN LATERAL (
               SELECT e.sid FROM qflare.handshake AS e
                WHERE c.result IS NULL AND e.slot = c.ticket_bucket % 8 AND e.ticket_bucket = c.ticket_bucket
                  AND e.sid = c.sid AND e.tenant_id = p_tenant AND e.th3_hash = c.th3_hash LIMIT 1) AS h ON true
          LEFT JOIN LATERAL (
               SELECT e.sid, e.log_index FROM qflare.session AS e
                WHERE e.sid = h.sid AND e.tenant_id = p_tenant AND e.ref = c.ref AND e.state = 'live'
                  AND e.last_bucket >= p_live_bucket LIMIT 1) AS s ON true;
    END IF;
END
$$;

-- confirm_sessions: head_sessions for workers of version 33, which write no heading: here it is made for them, an event of
-- type 2, and they are told of the log as if it had stood before their batch.
CREATE OR REPLACE FUNCTION qflare.confirm_sessions(
    p_tenant uuid, p_forms smallint[], p_ticket_buckets bigint[], p_sids uuid[], p_refs bytea[],
    p_key_versions bigint[], p_starts bigint[], p_lifetimes integer[], p_policies bigint[], p_th3_hashes bytea[],
    p_leaf_hashes bytea[], p_leaves bytea[], p_state_buckets bigint[], p_chain_keys bytea[], p_proves_kem boolean[],
    p_now timestamptz, p_live_bucket bigint,
    OUT results text[], OUT log_indexes bigint[], OUT first_index bigint, OUT old_frontier bytea)
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_leaf    CONSTANT bytea   := '\x51465831204c45414602'::bytea || uuid_send(gen_random_uuid()) || uuid_send(p_tenant)
                                  || int8send(floor(extract(epoch FROM p_now) * 1000)::bigint)
                                  || '\x0f'::bytea || 'session_heading'::bytea || '\x04'::bytea || 'info'::bytea
                                  || '\x00'::bytea || int4send(2) || '{}'::bytea;
    v_node    bytea            := sha256('\x00'::bytea || v_leaf);
    v_size    bigint;
BEGIN
    SELECT h.results, h.log_indexes, h.first_index, h.old_frontier
      INTO results, log_indexes, first_index, old_frontier
      FROM qflare.head_sessions(p_tenant, p_forms, p_ticket_buckets, p_sids, p_refs, p_key_versions, p_starts,
                                p_lifetimes, p_policies, p_th3_hashes, p_leaf_hashes, p_leaves, p_state_buckets,
                                p_chain_keys, p_proves_kem, p_now, p_live_bucket, v_leaf, '{}') AS h;
    IF first_index IS NULL THEN
        RETURN;
    END IF;
    v_size := first_index;
    WHILE v_size % 2 = 1 LOOP
        v_node := sha256('\x01'::bytea || substring(old_frontier FROM octet_length(old_frontier) - 31) || v_node);
        old_frontier := substring(old_frontier FROM 1 FOR octet_length(old_frontier) - 32);
        v_size := v_size / 2;
    END LOOP;
    old_frontier := old_frontier || v_node;
    first_index := first_index + 1;
END
$$;

-- find_sessions: the terms of sessions; one whose last bucket is over is expired.
CREATE OR REPLACE FUNCTION qflare.find_sessions(p_tenant uuid, p_sids uuid[])
RETURNS TABLE (sid uuid, device_id text, ref bytea, key_version bigint, form smallint, start_bucket bigint,
               last_bucket bigint, policy bigint, state text, epoch bigint, created_at timestamptz, log_index bigint)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
BEGIN
    RETURN QUERY
    SELECT s.sid, d.device_id, s.ref::bytea, s.key_version::bigint, s.form::smallint, s.start_bucket, s.last_bucket,
           s.policy::bigint,
           CASE WHEN s.state = 'live' AND s.last_bucket < (SELECT m.expired_before FROM qflare.bucket_mark AS m)
                THEN 'expired' ELSE s.state::text END,
           s.epoch::bigint, s.created_at, s.log_index::bigint
      FROM qflare.session AS s
     CROSS JOIN LATERAL (
           SELECT e.device_id FROM qflare.device AS e WHERE e.tenant_id = p_tenant AND e.ref = s.ref LIMIT 1) AS d
     WHERE s.tenant_id = p_tenant
       AND s.sid = ANY (p_sids);
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

-- find_chains: sealed chain keys of sessions for a range of buckets, the present epoch's and the one before (R7).
CREATE OR REPLACE FUNCTION qflare.find_chains(p_tenant uuid, p_sids uuid[], p_first bigint, p_last bigint)
RETURNS TABLE (sid uuid, bucket bigint, epoch bigint, sealed_chain_key bytea)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
BEGIN
    -- Only live buckets, of which there are a handful.
    RETURN QUERY
    SELECT c.sid, c.bucket, c.epoch::bigint, c.sealed_chain_key::bytea
      FROM qflare.bucket_key AS k
     CROSS JOIN unnest(p_sids) AS w (sid)
     CROSS JOIN LATERAL (
           SELECT e.sid, e.bucket, e.epoch, e.sealed_chain_key FROM qflare.session_state AS e
            WHERE e.slot = k.bucket % 8 AND e.bucket = k.bucket AND e.sid = w.sid AND e.tenant_id = p_tenant
            ORDER BY e.epoch DESC LIMIT 2) AS c
     WHERE k.bucket BETWEEN p_first AND p_last
     ORDER BY c.sid, c.bucket, c.epoch DESC;
END
$$;

-- find_pages: the pages that hold chain keys of sessions, for a range of buckets.
CREATE OR REPLACE FUNCTION qflare.find_pages(p_tenant uuid, p_sids uuid[], p_first bigint, p_last bigint)
RETURNS TABLE (bucket bigint, sids uuid[], epochs bigint[], sealed_chain_keys bytea)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
BEGIN
    -- Pages of a tenant do not overlap, so the one that begins at or below an id is the only one that may hold it.
    -- They are found by their keys first: what is on them is read once, however many of the sessions are there.
    RETURN QUERY
    SELECT p.bucket, p.sids, p.epochs, p.sealed_chain_keys
      FROM (SELECT DISTINCT k.bucket, f.first_sid
              FROM qflare.bucket_key AS k
             CROSS JOIN unnest(p_sids) AS w (sid)
             CROSS JOIN LATERAL (
                   SELECT e.first_sid, e.last_sid FROM qflare.session_page AS e
                    WHERE e.slot = k.bucket % 8 AND e.bucket = k.bucket AND e.tenant_id = p_tenant
                      AND e.first_sid <= w.sid
                    ORDER BY e.first_sid DESC LIMIT 1) AS f
             WHERE k.bucket BETWEEN p_first AND p_last AND f.last_sid >= w.sid) AS d
     CROSS JOIN LATERAL (
           SELECT e.bucket, e.sids, e.epochs, e.sealed_chain_keys FROM qflare.session_page AS e
            WHERE e.slot = d.bucket % 8 AND e.bucket = d.bucket AND e.tenant_id = p_tenant
              AND e.first_sid = d.first_sid LIMIT 1) AS p;
END
$$;

-- accept_streams: take each stream once (R4), in a live session and a live bucket; accepted[i] says so.
-- What this very p_call took in a transaction whose end its caller did not see is taken still.
-- The old epoch of a session is read to the end of the bucket after its rekey (R7).
CREATE OR REPLACE FUNCTION qflare.accept_streams(
    p_tenant uuid, p_sids uuid[], p_directions smallint[], p_stream_ids uuid[], p_buckets bigint[],
    p_epochs bigint[], p_now timestamptz, p_call uuid, OUT accepted boolean[])
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_live       bigint[] := qflare.hold_buckets(p_buckets);
    v_sids       uuid[];        -- live sessions, with their buckets and epoch,
    v_starts     bigint[];
    v_lasts      bigint[];
    v_epochs     bigint[];
    v_rekeyed    bigint[];      -- server's bucket at the last rekey
    v_fresh      uuid[];        -- and those of them that never carried a record
    v_taken_sids uuid[];        -- streams that are new
    v_directions smallint[];
    v_stream_ids uuid[];
    v_buckets    bigint[];
BEGIN
    -- The session's row is locked, so that its end comes wholly before or wholly after.
    SELECT array_agg(s.sid), array_agg(s.start_bucket), array_agg(s.last_bucket),
           array_agg(s.epoch), array_agg(s.rekey_bucket), array_agg(s.sid) FILTER (WHERE s.carried_at IS NULL)
      INTO v_sids, v_starts, v_lasts, v_epochs, v_rekeyed, v_fresh
      FROM (SELECT e.sid, e.start_bucket, e.last_bucket, e.epoch, e.rekey_bucket, e.carried_at, e.state
              FROM qflare.session AS e
             WHERE e.tenant_id = p_tenant AND e.sid = ANY (p_sids)
             ORDER BY e.sid
               FOR NO KEY UPDATE) AS s
     -- Asked here, not above: there it would invite the index of live sessions.
     WHERE s.state = 'live';
    WITH taken AS (
        INSERT INTO qflare.stream (tenant_id, sid, stream_id, bucket, direction, slot, call_id)
        SELECT p_tenant, c.sid, c.stream_id, c.bucket, c.direction, c.bucket % 8, p_call
          FROM unnest(p_sids, p_directions, p_stream_ids, p_buckets, p_epochs)
               AS c (sid, direction, stream_id, bucket, epoch)
          JOIN unnest(v_sids, v_starts, v_lasts, v_epochs, v_rekeyed)
               AS a (sid, start_bucket, last_bucket, epoch, rekey_bucket)
            ON a.sid = c.sid AND c.bucket BETWEEN a.start_bucket AND a.last_bucket
           AND (c.epoch = a.epoch
                OR (c.epoch = a.epoch - 1 AND (SELECT m.bucket FROM qflare.bucket_mark AS m) <= a.rekey_bucket + 1))
         WHERE c.bucket = ANY (v_live)
        ON CONFLICT DO NOTHING
        RETURNING sid, direction, stream_id, bucket)
    SELECT array_agg(t.sid), array_agg(t.direction), array_agg(t.stream_id), array_agg(t.bucket)
      INTO v_taken_sids, v_directions, v_stream_ids, v_buckets
      FROM taken AS t;
    IF cardinality(v_stream_ids) = cardinality(p_stream_ids) THEN       -- what nearly always is
        accepted := array_fill(true, ARRAY[cardinality(p_stream_ids)]);
    ELSE
        SELECT array_agg((t.sid IS NOT NULL OR r.sid IS NOT NULL) AND c.turn = 1 ORDER BY c.place) INTO accepted
          FROM (SELECT u.*, row_number() OVER (PARTITION BY u.sid, u.direction, u.stream_id, u.bucket ORDER BY u.place)
                       AS turn
                  FROM unnest(p_sids, p_directions, p_stream_ids, p_buckets) WITH ORDINALITY
                       AS u (sid, direction, stream_id, bucket, place)) AS c
          LEFT JOIN unnest(v_taken_sids, v_directions, v_stream_ids, v_buckets)
                    AS t (sid, direction, stream_id, bucket)
            ON t.sid = c.sid AND t.direction = c.direction AND t.stream_id = c.stream_id AND t.bucket = c.bucket
          LEFT JOIN LATERAL (
               SELECT e.sid FROM qflare.stream AS e
                WHERE t.sid IS NULL AND e.slot = c.bucket % 8 AND e.stream_id = c.stream_id AND e.sid = c.sid
                  AND e.direction = c.direction AND e.bucket = c.bucket AND e.tenant_id = p_tenant
                  AND e.call_id = p_call LIMIT 1) AS r ON true;
        v_fresh := ARRAY(SELECT f.sid FROM unnest(v_fresh) AS f (sid) WHERE f.sid = ANY (v_taken_sids));
    END IF;
    IF v_fresh <> '{}' THEN
        UPDATE qflare.session AS s
           SET carried_at = p_now
         WHERE s.tenant_id = p_tenant AND s.sid = ANY (v_fresh) AND s.carried_at IS NULL;
    END IF;
END
$$;

-- accept_streams of version 2, whose workers take each stream in one attempt.
CREATE OR REPLACE FUNCTION qflare.accept_streams(
    p_tenant uuid, p_sids uuid[], p_directions smallint[], p_stream_ids uuid[], p_buckets bigint[],
    p_epochs bigint[], p_now timestamptz, OUT accepted boolean[])
LANGUAGE plpgsql AS $$
BEGIN
    accepted := qflare.accept_streams(p_tenant, p_sids, p_directions, p_stream_ids, p_buckets, p_epochs, p_now,
                                      NULL::uuid);
END
$$;

-- accept_streams of version 1, whose workers open records of epoch 0 alone.
CREATE OR REPLACE FUNCTION qflare.accept_streams(
    p_tenant uuid, p_sids uuid[], p_directions smallint[], p_stream_ids uuid[], p_buckets bigint[], p_now timestamptz,
    OUT accepted boolean[])
LANGUAGE plpgsql AS $$
BEGIN
    accepted := qflare.accept_streams(p_tenant, p_sids, p_directions, p_stream_ids, p_buckets,
                                      array_fill(0::bigint, ARRAY[cardinality(p_sids)]), p_now);
END
$$;

-- accept_requests: accept streams of requests (R4) together with the keys of their replies (R6), at most p_most
-- outstanding ones a session; results[i] is 'accepted', 'refused' or 'full'.
CREATE OR REPLACE FUNCTION qflare.accept_requests(
    p_tenant uuid, p_sids uuid[], p_request_ids uuid[], p_buckets bigint[], p_epochs bigint[], p_expires bigint[],
    p_sealed_buckets bigint[], p_reply_keys bytea[], p_most bigint, p_now timestamptz, OUT results text[])
LANGUAGE plpgsql AS $$
DECLARE
    v_entered  CONSTANT boolean  := qflare.enter(p_tenant);  -- before anything else
    v_live     CONSTANT bigint[] := qflare.hold_buckets(p_buckets);  -- slots are held before sessions
    v_places   bigint[];
    v_accepted boolean[];
BEGIN
    PERFORM FROM qflare.session AS s
      WHERE s.tenant_id = p_tenant AND s.sid = ANY (p_sids) ORDER BY s.sid FOR NO KEY UPDATE;
    -- With the sessions held nobody else counts.
    SELECT array_agg(c.place ORDER BY c.place) INTO v_places
      FROM (SELECT u.place, u.sid, row_number() OVER (PARTITION BY u.sid ORDER BY u.place) AS turn
              FROM unnest(p_sids) WITH ORDINALITY AS u (sid, place)) AS c
     WHERE c.turn + (SELECT count(*) FROM qflare.reply_key AS r
                      WHERE r.sid = c.sid AND r.tenant_id = p_tenant) <= p_most;
    results := array_fill('full'::text, ARRAY[cardinality(p_sids)]);
    IF v_places IS NULL THEN
        RETURN;
    END IF;
    v_accepted := qflare.accept_streams(
        p_tenant, ARRAY(SELECT p_sids[p] FROM unnest(v_places) AS p),
        array_fill(1::smallint, ARRAY[cardinality(v_places)]),
        ARRAY(SELECT p_request_ids[p] FROM unnest(v_places) AS p),
        ARRAY(SELECT p_buckets[p] FROM unnest(v_places) AS p),
        ARRAY(SELECT p_epochs[p] FROM unnest(v_places) AS p), p_now);
    FOR v_turn IN 1 .. cardinality(v_places) LOOP
        results[v_places[v_turn]] := 'refused';
        IF v_accepted[v_turn] THEN
            INSERT INTO qflare.reply_key (tenant_id, sid, request_id, direction, request_bucket, request_epoch,
                                          expires_bucket, bucket, sealed_reply_key)
            VALUES (p_tenant, p_sids[v_places[v_turn]], p_request_ids[v_places[v_turn]], 2,
                    p_buckets[v_places[v_turn]], p_epochs[v_places[v_turn]], p_expires[v_places[v_turn]],
                    p_sealed_buckets[v_places[v_turn]], p_reply_keys[v_places[v_turn]])
            ON CONFLICT DO NOTHING;
            IF FOUND THEN
                results[v_places[v_turn]] := 'accepted';
            END IF;
        END IF;
    END LOOP;
END
$$;

-- save_reply_keys: keys of replies to our own requests (R6), of live sessions in their present epoch and at most
-- p_most outstanding ones a session; results[i] is 'saved', 'refused' or 'full'.
CREATE OR REPLACE FUNCTION qflare.save_reply_keys(
    p_tenant uuid, p_sids uuid[], p_request_ids uuid[], p_buckets bigint[], p_epochs bigint[], p_expires bigint[],
    p_sealed_buckets bigint[], p_reply_keys bytea[], p_most bigint, OUT results text[])
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
BEGIN
    PERFORM FROM qflare.session AS s
      WHERE s.tenant_id = p_tenant AND s.sid = ANY (p_sids) ORDER BY s.sid FOR NO KEY UPDATE;
    SELECT array_agg(CASE WHEN s.sid IS NULL THEN 'refused'
                          WHEN c.turn + (SELECT count(*) FROM qflare.reply_key AS r
                                          WHERE r.sid = c.sid AND r.tenant_id = p_tenant) > p_most THEN 'full'
                          ELSE 'saved' END ORDER BY c.place) INTO results
      FROM (SELECT u.place, u.sid, u.epoch, row_number() OVER (PARTITION BY u.sid ORDER BY u.place) AS turn
              FROM unnest(p_sids, p_epochs) WITH ORDINALITY AS u (sid, epoch, place)) AS c
      LEFT JOIN LATERAL (
           SELECT e.sid FROM qflare.session AS e
            WHERE e.sid = c.sid AND e.tenant_id = p_tenant AND e.state = 'live' AND e.epoch = c.epoch
            LIMIT 1) AS s ON true;
    INSERT INTO qflare.reply_key (tenant_id, sid, request_id, direction, request_bucket, request_epoch,
                                  expires_bucket, bucket, sealed_reply_key)
    SELECT p_tenant, c.sid, c.request_id, 1, c.bucket, c.epoch, c.expires, c.sealed_bucket, c.reply_key
      FROM unnest(results, p_sids, p_request_ids, p_buckets, p_epochs, p_expires, p_sealed_buckets, p_reply_keys)
           AS c (result, sid, request_id, bucket, epoch, expires, sealed_bucket, reply_key)
     WHERE c.result = 'saved';
END
$$;

-- find_reply_keys: outstanding replies by (session, request).
CREATE OR REPLACE FUNCTION qflare.find_reply_keys(p_tenant uuid, p_sids uuid[], p_request_ids uuid[])
RETURNS TABLE (sid uuid, request_id uuid, direction smallint, request_bucket bigint, request_epoch bigint,
               expires_bucket bigint, bucket bigint, sealed_reply_key bytea)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
BEGIN
    RETURN QUERY
    SELECT r.sid, r.request_id, r.direction, r.request_bucket, r.request_epoch::bigint, r.expires_bucket, r.bucket,
           r.sealed_reply_key::bytea
      FROM unnest(p_sids, p_request_ids) AS w (sid, request_id)
     CROSS JOIN LATERAL (
           SELECT e.* FROM qflare.reply_key AS e
            WHERE e.request_id = w.request_id AND e.sid = w.sid AND e.tenant_id = p_tenant LIMIT 1) AS r;
END
$$;

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

-- rekey_session: make p_epoch the session's epoch if it comes next (R7), with its first chain keys, the old epoch's
-- for the present bucket, and the event. result: 'rekeyed', 'repeated', 'conflict', 'expired' or 'ended'.
CREATE OR REPLACE FUNCTION qflare.rekey_session(
    p_tenant uuid, p_sid uuid, p_epoch bigint, p_body_hash bytea, p_first bigint, p_buckets bigint[],
    p_epochs bigint[], p_chain_keys bytea[], p_types text[], p_severities text[], p_devices text[], p_data bytea[],
    p_leaves bytea[], p_occurred_ms bigint[], OUT result text)
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_current bigint;
    v_expired bigint;
    v_live    bigint[];
    v_state   text;
    v_epoch   bigint;
    v_hash    bytea;
    v_bucket  bigint;
    v_last    bigint;
BEGIN
    -- A worker that turns to the next bucket waits for this: no record of a bucket after p_first + 1 is written in
    -- the old epoch before the commit, so that a device may take such a record as the end of its rekey.
    -- In line with it: those who share a row pass whoever waits to change it, and a stream of rekeys would keep the
    -- turn waiting for ever.
    PERFORM pg_advisory_xact_lock_shared(1363561219, 0);
    SELECT m.bucket, m.expired_before INTO STRICT v_current, v_expired FROM qflare.bucket_mark AS m FOR SHARE;
    v_live := qflare.hold_buckets(p_buckets);
    SELECT s.state, s.epoch, s.rekey_hash, s.rekey_bucket, s.last_bucket
      INTO v_state, v_epoch, v_hash, v_bucket, v_last
      FROM qflare.session AS s
     WHERE s.tenant_id = p_tenant AND s.sid = p_sid FOR NO KEY UPDATE;
    IF NOT FOUND OR v_state <> 'live' OR v_last < v_expired THEN
        result := 'ended';
    ELSIF v_epoch = p_epoch AND v_hash = p_body_hash AND v_current <= v_bucket + 1 THEN
        result := 'repeated';
    ELSIF v_epoch + 1 <> p_epoch THEN
        result := 'conflict';
    ELSIF p_first NOT BETWEEN v_current - 1 AND v_current + 1 OR NOT p_buckets <@ v_live OR p_buckets = '{}' THEN
        result := 'expired';
    ELSE
        UPDATE qflare.session AS s
           SET epoch = p_epoch, rekey_hash = p_body_hash, rekey_bucket = v_current
         WHERE s.tenant_id = p_tenant AND s.sid = p_sid;
        INSERT INTO qflare.session_state (bucket, sid, tenant_id, slot, epoch, sealed_chain_key)
        SELECT c.bucket, p_sid, p_tenant, c.bucket % 8, c.epoch, c.chain_key
          FROM unnest(p_buckets, p_epochs, p_chain_keys) AS c (bucket, epoch, chain_key)
        ON CONFLICT DO NOTHING;
        PERFORM qflare.write_events(p_tenant, array_fill(true, ARRAY[cardinality(p_types)]), p_types, p_severities,
                                    p_devices, p_data, p_leaves, p_occurred_ms);
        result := 'rekeyed';
    END IF;
END
$$;

-- rekey_session: as above, unless the bucket turned since the claim was made for p_mark: then 'moved', and nothing is
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

-- stop_sessions: end live sessions of devices whose rows the caller holds; returns the last buckets of those ended.
CREATE OR REPLACE FUNCTION qflare.stop_sessions(p_tenant uuid, p_refs bytea[], p_sids uuid[], p_state text)
RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    v_ended bigint[];
BEGIN
    WITH ended AS (
        UPDATE qflare.session AS s
           SET state = p_state, ended_at = clock_timestamp()
         WHERE s.tenant_id = p_tenant
           AND s.ref = ANY (p_refs)
           AND (p_sids IS NULL OR s.sid = ANY (p_sids))
           AND s.state = 'live'
        RETURNING s.last_bucket)
    SELECT array_agg(e.last_bucket) INTO v_ended FROM ended AS e;
    RETURN v_ended;
END
$$;

-- end_sessions: end live sessions by id, with the caller's events; returns how many were live.
-- Without any live one no event is written.
CREATE OR REPLACE FUNCTION qflare.end_sessions(
    p_tenant uuid, p_sids uuid[], p_state text, p_types text[], p_severities text[], p_devices text[],
    p_data bytea[], p_leaves bytea[], p_occurred_ms bigint[])
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_refs  bytea[];
    v_ended bigint[];
BEGIN
    SELECT array_agg(DISTINCT s.ref::bytea) INTO v_refs
      FROM qflare.session AS s WHERE s.tenant_id = p_tenant AND s.sid = ANY (p_sids);
    PERFORM FROM qflare.device AS d
      WHERE d.tenant_id = p_tenant AND d.ref = ANY (v_refs) ORDER BY d.ref FOR NO KEY UPDATE;
    v_ended := qflare.stop_sessions(p_tenant, v_refs, p_sids, p_state);
    IF v_ended IS NULL THEN
        RETURN 0;
    END IF;
    PERFORM qflare.write_events(p_tenant, array_fill(true, ARRAY[cardinality(p_types)]), p_types, p_severities,
                                p_devices, p_data, p_leaves, p_occurred_ms);
    PERFORM FROM qflare.log_head FOR UPDATE;
    PERFORM qflare.count_ended(p_tenant, v_ended);
    RETURN cardinality(v_ended);
END
$$;

-- end_sessions: as above, and say why; empty says nothing.
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

-- list_rotatable_keys: a page of a tenant's active devices in order of ref, with all that decides whether keys are due.
-- Times are whole seconds of the database's clock, which all workers share.
CREATE OR REPLACE FUNCTION qflare.list_rotatable_keys(p_tenant uuid, p_after bytea, p_limit bigint)
RETURNS TABLE (ref bytea, device_id text, key_version bigint, created_s bigint, records bigint, bytes bigint,
               marked_s bigint, mark_reason text, now_s bigint)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_now     CONSTANT bigint  := floor(extract(epoch FROM clock_timestamp()))::bigint;
BEGIN
    RETURN QUERY
    SELECT d.ref, d.device_id, d.key_version::bigint, floor(extract(epoch FROM k.created_at))::bigint,
           coalesce(u.records, 0), coalesce(u.bytes, 0), floor(extract(epoch FROM m.marked_at))::bigint, m.reason, v_now
      FROM (SELECT e.ref, e.device_id, e.key_version
              FROM qflare.device AS e
             WHERE e.tenant_id = p_tenant AND e.ref > p_after AND e.state = 'active'
             ORDER BY e.ref
             LIMIT p_limit) AS d
     CROSS JOIN LATERAL (
           SELECT e.created_at FROM qflare.device_key AS e
            WHERE e.tenant_id = p_tenant AND e.ref = d.ref AND e.key_version = d.key_version
              AND e.kind = 'signature' LIMIT 1) AS k
      LEFT JOIN LATERAL (
           SELECT e.records, e.bytes FROM qflare.device_use AS e
            WHERE e.tenant_id = p_tenant AND e.ref = d.ref AND e.key_version = d.key_version LIMIT 1) AS u ON true
      LEFT JOIN LATERAL (
           SELECT e.marked_at, e.reason FROM qflare.rotation_mark AS e
            WHERE e.tenant_id = p_tenant AND e.ref = d.ref AND e.key_version = d.key_version LIMIT 1) AS m ON true
     ORDER BY d.ref;
END
$$;

-- mark_rotations: mark keys as due, as many as the tenant's share a minute still allows, and write their events.
-- Whatever the caller believes: without a policy none, none twice, and none that is younger than an hour.
CREATE OR REPLACE FUNCTION qflare.mark_rotations(
    p_tenant uuid, p_refs bytea[], p_key_versions bigint[], p_reasons text[], p_due_s bigint[], p_types text[],
    p_severities text[], p_devices text[], p_data bytea[], p_leaves bytea[], p_occurred_ms bigint[],
    OUT marked boolean[], OUT first_index bigint, OUT old_frontier bytea)
LANGUAGE plpgsql AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_policy  qflare.rotation_policy;
    v_now     timestamptz;
    v_room    bigint;
BEGIN
    marked := array_fill(false, ARRAY[cardinality(p_refs)]);
    SELECT * INTO v_policy FROM qflare.rotation_policy AS p WHERE p.tenant_id = p_tenant FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    v_now := clock_timestamp();     -- after the lock: later than every mark that others have made
    IF v_policy.counted_at NOT BETWEEN v_now - interval '10 minutes' AND v_now THEN
        -- Counting a million devices is too dear for every call.
        SELECT count(*) INTO v_policy.counted_devices
          FROM qflare.device AS d WHERE d.tenant_id = p_tenant AND d.state = 'active';
        UPDATE qflare.rotation_policy AS p
           SET counted_devices = v_policy.counted_devices, counted_at = v_now
         WHERE p.tenant_id = p_tenant;
    END IF;
    -- A share below one device is one device: else a small fleet would never be done.
    SELECT greatest(1, v_policy.counted_devices * v_policy.minute_ppm / 1000000) - count(*) INTO v_room
      FROM qflare.rotation_mark AS m
     WHERE m.tenant_id = p_tenant AND m.marked_at > v_now - interval '1 minute';
    FOR v_place IN 1 .. cardinality(p_refs) LOOP
        EXIT WHEN v_room <= 0;
        -- No lock on the device: a mark for a version that ends meanwhile is void.
        CONTINUE WHEN NOT EXISTS (
            SELECT FROM qflare.device AS d
             WHERE d.tenant_id = p_tenant AND d.ref = p_refs[v_place] AND d.state = 'active'
               AND d.key_version = p_key_versions[v_place] LIMIT 1);
        CONTINUE WHEN NOT EXISTS (
            SELECT FROM qflare.device_key AS k
             WHERE k.tenant_id = p_tenant AND k.ref = p_refs[v_place] AND k.key_version = p_key_versions[v_place]
               AND k.kind = 'signature' AND k.created_at <= v_now - interval '1 hour' LIMIT 1);
        INSERT INTO qflare.rotation_mark AS m (tenant_id, ref, key_version, reason, due_at, marked_at)
        VALUES (p_tenant, p_refs[v_place], p_key_versions[v_place], p_reasons[v_place],
                to_timestamp(p_due_s[v_place]), v_now)
        ON CONFLICT (ref, tenant_id) DO UPDATE
           SET key_version = EXCLUDED.key_version, reason = EXCLUDED.reason, due_at = EXCLUDED.due_at,
               marked_at = EXCLUDED.marked_at
         WHERE m.key_version < EXCLUDED.key_version;
        IF FOUND THEN
            marked[v_place] := true;
            v_room := v_room - 1;
        END IF;
    END LOOP;
    SELECT w.first_index, w.old_frontier INTO first_index, old_frontier
      FROM qflare.write_events(p_tenant, marked, p_types, p_severities, p_devices, p_data, p_leaves,
                               p_occurred_ms) AS w;
END
$$;

-- find_rotation_marks: the marks that hold, of devices' current keys; is_overdue once the policy's grace is over.
CREATE OR REPLACE FUNCTION qflare.find_rotation_marks(p_tenant uuid, p_refs bytea[])
RETURNS TABLE (ref bytea, key_version bigint, reason text, due_at timestamptz, marked_at timestamptz,
               is_overdue boolean)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_grace_s CONSTANT bigint  := (SELECT p.grace_s FROM qflare.rotation_policy AS p WHERE p.tenant_id = p_tenant);
BEGIN
    RETURN QUERY
    SELECT w.ref, m.key_version, m.reason, m.due_at, m.marked_at,
           coalesce(m.marked_at + v_grace_s * interval '1 second' < clock_timestamp(), false)
      FROM unnest(p_refs) AS w (ref)
     CROSS JOIN LATERAL (
           SELECT e.key_version FROM qflare.device AS e WHERE e.tenant_id = p_tenant AND e.ref = w.ref LIMIT 1) AS d
     CROSS JOIN LATERAL (
           SELECT e.key_version, e.reason, e.due_at, e.marked_at FROM qflare.rotation_mark AS e
            WHERE e.tenant_id = p_tenant AND e.ref = w.ref AND e.key_version = d.key_version LIMIT 1) AS m;
END
$$;

-- count_use: add what sessions have carried since the worker's last flush; returns their sums, and whether the device's
-- current keys are overdue.  Sessions that are not the tenant's are left out.
CREATE OR REPLACE FUNCTION qflare.count_use(p_tenant uuid, p_sids uuid[], p_records bigint[], p_bytes bigint[])
RETURNS TABLE (sid uuid, ref bytea, records bigint, bytes bigint, is_overdue boolean)
LANGUAGE plpgsql ROWS 64 AS $$
DECLARE
    v_entered  CONSTANT boolean := qflare.enter(p_tenant);  -- before anything else
    v_use      record;
    v_session  record;
    v_sids     uuid[]   := '{}';
    v_refs     bytea[]  := '{}';
    v_versions bigint[] := '{}';
    v_records  bigint[] := '{}';
    v_bytes    bigint[] := '{}';
    v_sums     bigint[] := '{}';
    v_sizes    bigint[] := '{}';
BEGIN
    -- In order of sid, so that two workers that flush the same sessions wait for each other instead of locking up.
    FOR v_use IN
        SELECT u.sid, sum(u.records)::bigint AS records, sum(u.bytes)::bigint AS bytes
          FROM unnest(p_sids, p_records, p_bytes) AS u (sid, records, bytes)
         GROUP BY u.sid ORDER BY u.sid
    LOOP
        UPDATE qflare.session AS s
           SET records = s.records + v_use.records, bytes = s.bytes + v_use.bytes
         WHERE s.tenant_id = p_tenant AND s.sid = v_use.sid
        RETURNING s.sid, s.ref::bytea AS ref, s.key_version::bigint AS key_version, s.records, s.bytes INTO v_session;
        -- Where none was found, INTO has emptied what it names: the sums of the others must not be among that.
        IF FOUND THEN
            v_sids := v_sids || v_session.sid;
            v_refs := v_refs || v_session.ref;
            v_versions := v_versions || v_session.key_version;
            v_sums := v_sums || v_session.records;
            v_sizes := v_sizes || v_session.bytes;
            v_records := v_records || v_use.records;
            v_bytes := v_bytes || v_use.bytes;
        END IF;
    END LOOP;
    INSERT INTO qflare.device_use AS u (tenant_id, ref, key_version, records, bytes)
    SELECT p_tenant, a.ref, a.key_version, sum(a.records), sum(a.bytes)
      FROM unnest(v_refs, v_versions, v_records, v_bytes) AS a (ref, key_version, records, bytes)
     GROUP BY a.ref, a.key_version
     ORDER BY a.ref, a.key_version
    ON CONFLICT ON CONSTRAINT device_use_pkey
    DO UPDATE SET records = u.records + EXCLUDED.records, bytes = u.bytes + EXCLUDED.bytes;
    RETURN QUERY
    SELECT a.sid, a.ref, a.records, a.bytes, coalesce(m.is_overdue, false)
      FROM unnest(v_sids, v_refs, v_sums, v_sizes) AS a (sid, ref, records, bytes)
      LEFT JOIN qflare.find_rotation_marks(
                    p_tenant, ARRAY(SELECT DISTINCT w.ref FROM unnest(v_refs) AS w (ref))) AS m ON m.ref = a.ref;
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

-- Functions that cross tenants: they run as qflare_maintenance, which may do exactly this -------------------------------
GRANT EXECUTE ON FUNCTION qflare.hold_buckets(bigint[]) TO qflare_maintenance;
GRANT CREATE ON SCHEMA qflare TO qflare_maintenance;
SET LOCAL ROLE qflare_maintenance;

-- find_session_tenants: which tenant each known session belongs to; a record names its session alone.
CREATE OR REPLACE FUNCTION qflare.find_session_tenants(p_sids uuid[])
RETURNS TABLE (sid uuid, tenant_id uuid)
LANGUAGE plpgsql STABLE ROWS 64 SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY SELECT r.sid, r.tenant_id FROM qflare.session_route AS r WHERE r.sid = ANY (p_sids);
END
$$;

-- list_chains: live sessions' chain keys of one bucket in order of sid, a page at a time: what version 3 turned by.
CREATE OR REPLACE FUNCTION qflare.list_chains(p_bucket bigint, p_limit bigint, p_after uuid)
RETURNS TABLE (tenant_id uuid, sid uuid, bucket bigint, epoch bigint, sealed_chain_key bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    -- Bounds of the whole range, so that every page begins where the last one ended.
    RETURN QUERY
    SELECT c.tenant_id, c.sid, c.bucket, c.epoch::bigint, c.sealed_chain_key::bytea
      FROM qflare.session_state AS c
     CROSS JOIN LATERAL (
           SELECT e.state, e.epoch FROM qflare.session AS e
            WHERE e.sid = c.sid AND e.tenant_id = c.tenant_id LIMIT 1) AS s
     WHERE c.slot = p_bucket % 8 AND c.bucket = p_bucket
       AND s.state = 'live'
       AND s.epoch = c.epoch
       AND c.sid >= coalesce(p_after, '00000000-0000-0000-0000-000000000000')
       AND c.sid IS DISTINCT FROM p_after
     ORDER BY c.sid
     LIMIT p_limit;
END
$$;

-- save_chains: chain keys where absent, of live sessions in live buckets; returns how many were new.
CREATE OR REPLACE FUNCTION qflare.save_chains(
    p_tenants uuid[], p_sids uuid[], p_buckets bigint[], p_epochs bigint[], p_chain_keys bytea[])
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_live  bigint[] := qflare.hold_buckets(p_buckets);
    v_saved bigint;
BEGIN
    INSERT INTO qflare.session_state (bucket, sid, tenant_id, slot, epoch, sealed_chain_key)
    SELECT c.bucket, c.sid, c.tenant_id, c.bucket % 8, c.epoch, c.chain_key
      FROM unnest(p_tenants, p_sids, p_buckets, p_epochs, p_chain_keys) AS c (tenant_id, sid, bucket, epoch, chain_key)
     CROSS JOIN LATERAL (
           SELECT e.state, e.epoch, e.start_bucket, e.last_bucket FROM qflare.session AS e
            WHERE e.sid = c.sid AND e.tenant_id = c.tenant_id LIMIT 1) AS s
     WHERE c.bucket = ANY (v_live)
       AND s.state = 'live'
       AND s.epoch = c.epoch
       AND c.bucket BETWEEN s.start_bucket AND s.last_bucket
     ORDER BY c.sid
    ON CONFLICT DO NOTHING;
    GET DIAGNOSTICS v_saved = ROW_COUNT;
    RETURN v_saved;
END
$$;

-- list_reply_keys: keys of outstanding replies of live sessions, as sealed in one bucket, in order of request, a page
-- at a time: what a turn seals again.
CREATE OR REPLACE FUNCTION qflare.list_reply_keys(p_bucket bigint, p_limit bigint, p_after uuid)
RETURNS TABLE (tenant_id uuid, sid uuid, request_id uuid, direction smallint, request_bucket bigint,
               request_epoch bigint, expires_bucket bigint, bucket bigint, sealed_reply_key bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT r.tenant_id, r.sid, r.request_id, r.direction, r.request_bucket, r.request_epoch::bigint, r.expires_bucket,
           r.bucket, r.sealed_reply_key::bytea
      FROM qflare.reply_key AS r
     CROSS JOIN LATERAL (
           SELECT e.state FROM qflare.session AS e WHERE e.sid = r.sid AND e.tenant_id = r.tenant_id LIMIT 1) AS s
     WHERE r.bucket = p_bucket
       AND s.state = 'live'
       AND r.request_id >= coalesce(p_after, '00000000-0000-0000-0000-000000000000')
       AND r.request_id IS DISTINCT FROM p_after
     ORDER BY r.request_id
     LIMIT p_limit;
END
$$;

-- reseal_reply_keys: put values that were sealed for a later bucket in the place of the earlier ones; one that was
-- taken meanwhile stays away. Returns how many were replaced.
CREATE OR REPLACE FUNCTION qflare.reseal_reply_keys(
    p_tenants uuid[], p_sids uuid[], p_request_ids uuid[], p_buckets bigint[], p_reply_keys bytea[])
RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_count bigint;
BEGIN
    -- In one order, so that two workers that turn at once wait for each other instead of locking up.
    PERFORM FROM qflare.reply_key AS r
      WHERE r.request_id = ANY (p_request_ids) ORDER BY r.request_id FOR UPDATE;
    UPDATE qflare.reply_key AS r
       SET bucket = c.bucket, sealed_reply_key = c.reply_key
      FROM unnest(p_tenants, p_sids, p_request_ids, p_buckets, p_reply_keys)
           AS c (tenant_id, sid, request_id, bucket, reply_key)
     WHERE r.request_id = c.request_id AND r.sid = c.sid AND r.tenant_id = c.tenant_id AND r.bucket < c.bucket;
    GET DIAGNOSTICS v_count = ROW_COUNT;
    RETURN v_count;
END
$$;

-- drop_reply_keys: delete, at most p_limit of each, keys whose bucket lives no more and those whose time is over.
CREATE OR REPLACE FUNCTION qflare.drop_reply_keys(p_before bigint, p_bucket bigint, p_limit bigint) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_lost bigint;
    v_over bigint;
BEGIN
    -- One that a worker takes or seals at this moment is left for the next time.
    DELETE FROM qflare.reply_key AS r
     WHERE r.ctid = ANY (ARRAY(SELECT e.ctid FROM qflare.reply_key AS e
                                WHERE e.bucket < p_before LIMIT p_limit FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS v_lost = ROW_COUNT;
    DELETE FROM qflare.reply_key AS r
     WHERE r.ctid = ANY (ARRAY(SELECT e.ctid FROM qflare.reply_key AS e
                                WHERE e.expires_bucket < p_bucket LIMIT p_limit FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS v_over = ROW_COUNT;
    RETURN v_lost + v_over;
END
$$;

-- lead_turn: be the leader of one step of the turn into p_bucket until the transaction ends (R8); stage as TurnStage.
-- done of ranges are behind it, of the first sweep or of the late one.
CREATE OR REPLACE FUNCTION qflare.lead_turn(
    p_bucket bigint, p_is_late boolean, p_range_size bigint, OUT stage text, OUT done integer, OUT ranges integer)
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_settled integer;
BEGIN
    IF NOT pg_try_advisory_xact_lock(1363561218, (p_bucket % 2147483647)::integer) THEN
        stage := 'followed';
        RETURN;
    END IF;
    IF cardinality(qflare.hold_buckets(ARRAY[p_bucket - 1, p_bucket])) < 2
       OR EXISTS (SELECT FROM qflare.bucket_turn AS t WHERE t.bucket > p_bucket) THEN
        stage := 'over';
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM qflare.bucket_turn AS t WHERE t.bucket = p_bucket) THEN
        -- The row ends the turn before this one, so its leader must have committed what it was about to write.
        IF NOT pg_try_advisory_xact_lock(1363561218, ((p_bucket - 1) % 2147483647)::integer) THEN
            stage := 'followed';
            RETURN;
        END IF;
        INSERT INTO qflare.bucket_turn (bucket, ranges)
        SELECT p_bucket, greatest(1, ceil(coalesce(sum(c.live), 0) / p_range_size::numeric))
          FROM qflare.session_count AS c WHERE c.last_bucket >= p_bucket;
    END IF;
    SELECT t.done, t.settled, t.ranges INTO STRICT done, v_settled, ranges
      FROM qflare.bucket_turn AS t WHERE t.bucket = p_bucket;
    IF done < ranges AND p_is_late THEN
        stage := 'early';
    ELSE
        done := CASE WHEN p_is_late THEN v_settled ELSE done END;
        stage := CASE WHEN done < ranges THEN 'led' ELSE 'done' END;
    END IF;
END
$$;

-- list_turn_chains: as gather_turn_chains, a row a key; for workers of version 20.
CREATE OR REPLACE FUNCTION qflare.list_turn_chains(p_bucket bigint, p_first uuid, p_last uuid)
RETURNS TABLE (tenant_id uuid, sid uuid, epoch bigint, sealed_chain_key bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT c.tenant_id, c.sid, c.epoch::bigint, c.sealed_chain_key::bytea
      FROM qflare.session_state AS c
     CROSS JOIN LATERAL (
           SELECT e.state, e.epoch, e.last_bucket FROM qflare.session AS e
            WHERE e.sid = c.sid AND e.tenant_id = c.tenant_id LIMIT 1) AS s
     WHERE c.slot = (p_bucket - 1) % 8 AND c.bucket = p_bucket - 1
       AND c.sid BETWEEN p_first AND p_last
       AND s.state = 'live' AND s.epoch = c.epoch AND s.last_bucket >= p_bucket;
END
$$;

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

-- list_turn_pages: pages of the bucket before p_bucket that reach into a range of ids; places, from 1, are those of
-- the live sessions inside it.
CREATE OR REPLACE FUNCTION qflare.list_turn_pages(p_bucket bigint, p_first uuid, p_last uuid)
RETURNS TABLE (tenant_id uuid, sids uuid[], epochs bigint[], sealed_chain_keys bytea, places integer[])
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT p.tenant_id, p.sids, p.epochs, p.sealed_chain_keys,
           ARRAY(SELECT w.place::integer
                   FROM unnest(p.sids, p.epochs) WITH ORDINALITY AS w (sid, epoch, place)
                  CROSS JOIN LATERAL (
                        SELECT e.state, e.epoch, e.last_bucket FROM qflare.session AS e
                         WHERE e.sid = w.sid AND e.tenant_id = p.tenant_id LIMIT 1) AS s
                  WHERE w.sid BETWEEN p_first AND p_last
                    AND s.state = 'live' AND s.epoch = w.epoch AND s.last_bucket >= p_bucket)
      FROM qflare.session_page AS p
     WHERE p.slot = (p_bucket - 1) % 8 AND p.bucket = p_bucket - 1
       AND p.first_sid <= p_last AND p.last_sid >= p_first;
END
$$;

-- list_turned: which chain keys of p_bucket stand already as rows of their own, inside a range of ids.
CREATE OR REPLACE FUNCTION qflare.list_turned(p_bucket bigint, p_first uuid, p_last uuid)
RETURNS TABLE (tenant_id uuid, sid uuid, epoch bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT c.tenant_id, c.sid, c.epoch::bigint
      FROM qflare.session_state AS c
     WHERE c.slot = p_bucket % 8 AND c.bucket = p_bucket AND c.sid BETWEEN p_first AND p_last;
END
$$;

-- list_late_chains: as list_turn_chains, but only what p_bucket does not hold, neither as a row nor on a page.
-- Hashed, not looked up one by one: there may be as many as there are sessions.
CREATE OR REPLACE FUNCTION qflare.list_late_chains(p_bucket bigint, p_first uuid, p_last uuid)
RETURNS TABLE (tenant_id uuid, sid uuid, epoch bigint, sealed_chain_key bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET enable_nestloop = off AS $$
BEGIN
    RETURN QUERY
    WITH turned AS MATERIALIZED (
        SELECT n.tenant_id, n.sid, n.epoch::bigint AS epoch
          FROM qflare.session_state AS n
         WHERE n.slot = p_bucket % 8 AND n.bucket = p_bucket AND n.sid BETWEEN p_first AND p_last
        UNION ALL
        SELECT p.tenant_id, w.sid, w.epoch
          FROM qflare.session_page AS p
         CROSS JOIN LATERAL unnest(p.sids, p.epochs) AS w (sid, epoch)
         WHERE p.slot = p_bucket % 8 AND p.bucket = p_bucket
           AND p.first_sid <= p_last AND p.last_sid >= p_first)
    SELECT c.tenant_id, c.sid, c.epoch::bigint, c.sealed_chain_key::bytea
      FROM qflare.session_state AS c
      LEFT JOIN turned AS t ON t.sid = c.sid AND t.tenant_id = c.tenant_id AND t.epoch = c.epoch
     CROSS JOIN LATERAL (
           SELECT e.state, e.epoch, e.last_bucket FROM qflare.session AS e
            WHERE e.sid = c.sid AND e.tenant_id = c.tenant_id LIMIT 1) AS s
     WHERE c.slot = (p_bucket - 1) % 8 AND c.bucket = p_bucket - 1
       AND c.sid BETWEEN p_first AND p_last
       AND t.sid IS NULL
       AND s.state = 'live' AND s.epoch = c.epoch AND s.last_bucket >= p_bucket;
END
$$;

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

-- list_tenants: every tenant, for the operator.
CREATE OR REPLACE FUNCTION qflare.list_tenants() RETURNS TABLE (tenant_id uuid, name text)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY SELECT t.tenant_id, t.name FROM qflare.tenant AS t ORDER BY t.name;
END
$$;

-- list_rotation_policies: every tenant's rotation policy, for the workers' maintenance.
CREATE OR REPLACE FUNCTION qflare.list_rotation_policies()
RETURNS TABLE (tenant_id uuid, max_age_s bigint, max_records bigint, max_bytes bigint, jitter_percent smallint,
               minute_ppm integer, grace_s bigint)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    SELECT p.tenant_id, p.max_age_s, p.max_records, p.max_bytes, p.jitter_percent, p.minute_ppm, p.grace_s
      FROM qflare.rotation_policy AS p ORDER BY p.tenant_id;
END
$$;

-- list_limits: the limits of every tenant that stand and have not ended, for the workers that keep them.
CREATE OR REPLACE FUNCTION qflare.list_limits()
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

-- count_responses: what is told in metrics of all tenants' incidents and responses, without saying whose they are:
-- incidents that are not closed by severity and state, responses that changed within the last day by action and state,
-- and proposals that still may be confirmed by the operator that they wait for, with the oldest's time.
CREATE OR REPLACE FUNCTION qflare.count_responses()
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

-- erase_mentions: in the tenant's incidents and responses put an alias where a device's name stands, and take out what was
-- said about it there; p_escaped is the name as JSON in ASCII has it.  Without p_alias count what would be changed.
CREATE OR REPLACE FUNCTION qflare.erase_mentions(p_tenant uuid, p_name text, p_escaped text, p_alias text) RETURNS bigint
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

-- drop_finished: up to p_limit responses that are finished, and as many closed incidents that no response is to, of every
-- tenant, which nothing has changed for p_keep_s seconds.  What can be undone or confirmed, and what is open, stays; and
-- so does a response while its incident is not closed, as the one mark that its rule has responded.
CREATE OR REPLACE FUNCTION qflare.drop_finished(p_keep_s bigint, p_limit bigint) RETURNS bigint
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

-- find_leaves: leaf hashes by index for proofs, which pass over every tenant's leaves; hashes only.
CREATE OR REPLACE FUNCTION qflare.find_leaves(p_indexes bigint[]) RETURNS TABLE (log_index bigint, leaf_hash bytea)
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
-- There is one way to each row: planning again for each call costs more than the look-up.
SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN QUERY
    SELECT e.log_index::bigint, e.leaf_hash::bytea FROM qflare.audit_entry AS e WHERE e.log_index = ANY (p_indexes)
     UNION ALL
    SELECT l.log_index, l.leaf_hash FROM qflare.archived_leaf AS l WHERE l.log_index = ANY (p_indexes);
END
$$;

-- drop_archived_entries: up to p_limit of the oldest entries before p_before, whose archive the entry p_entry tells of;
-- their leaf hashes stay.  For who may change the schema alone, whoever may call it: no worker drops an entry.
CREATE OR REPLACE FUNCTION qflare.drop_archived_entries(p_before bigint, p_entry bigint, p_limit integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_told    CONSTANT bytea := convert_to(format('"size":%s,"what":"log entries archived"}', p_before), 'UTF8');
    v_dropped bigint;
BEGIN
    IF NOT pg_has_role(session_user, 'qflare_owner', 'MEMBER') THEN
        RAISE EXCEPTION 'entries are dropped by who may change the schema' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT EXISTS (SELECT FROM qflare.checkpoint AS c WHERE c.size = p_before)
       OR NOT EXISTS (SELECT FROM qflare.audit_entry AS e
                       WHERE e.log_index = p_entry AND p_entry >= p_before AND e.entry_type = 3
                         AND e.tenant_id = '00000000-0000-0000-0000-000000000000'
                         AND e.event_type = 'operator_action'
                         AND substring(e.data FROM octet_length(e.data) - octet_length(v_told) + 1) = v_told) THEN
        RAISE EXCEPTION 'no entry of the log tells that the entries before % were archived', p_before
            USING ERRCODE = 'check_violation', CONSTRAINT = 'audit_entry_archived', TABLE = 'audit_entry';
    END IF;
    -- The oldest first: wherever this ends, what is left is the end of the log.
    WITH gone AS (
        DELETE FROM qflare.audit_entry AS e
         WHERE e.log_index IN (SELECT o.log_index FROM qflare.audit_entry AS o
                                WHERE o.log_index < p_before ORDER BY o.log_index LIMIT p_limit)
        RETURNING e.log_index, e.leaf_hash)
    INSERT INTO qflare.archived_leaf (log_index, leaf_hash) SELECT g.log_index, g.leaf_hash FROM gone AS g;
    GET DIAGNOSTICS v_dropped = ROW_COUNT;
    RETURN v_dropped;
END
$$;

-- count_expired: how many live sessions of all tenants end in these buckets, last one exclusive.
CREATE OR REPLACE FUNCTION qflare.count_expired(p_first bigint, p_before bigint) RETURNS bigint
LANGUAGE plpgsql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
BEGIN
    RETURN (SELECT coalesce(sum(c.live), 0) FROM qflare.session_count AS c
             WHERE c.last_bucket >= p_first AND c.last_bucket < p_before);
END
$$;

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

-- Functions of the owner: emptying partitions ---------------------------------------------------------------------------

-- empty_slots: empty the partitions of buckets that live no more; constant time, no row is read or deleted.
-- A slot is held against writers first, and skipped while it cannot be had at once.
CREATE OR REPLACE FUNCTION qflare.empty_slots() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_slot    integer;
    v_table   text;
    v_emptied integer := 0;
BEGIN
    FOR v_slot IN 0 .. 7 LOOP
        CONTINUE WHEN pg_relation_size(format('qflare.handshake_slot_%s', v_slot)) = 0
                  AND pg_relation_size(format('qflare.session_state_slot_%s', v_slot)) = 0
                  AND pg_relation_size(format('qflare.session_page_slot_%s', v_slot)) = 0
                  AND pg_relation_size(format('qflare.stream_slot_%s', v_slot)) = 0;
        CONTINUE WHEN NOT pg_try_advisory_xact_lock(1363561217, v_slot);
        -- A statement of its own, after the lock: a bucket published meanwhile is seen.
        CONTINUE WHEN EXISTS (SELECT FROM qflare.bucket_key AS k WHERE k.bucket % 8 = v_slot);
        FOREACH v_table IN ARRAY ARRAY['handshake', 'session_state', 'session_page', 'stream'] LOOP
            EXECUTE format('TRUNCATE qflare.%I', format('%s_slot_%s', v_table, v_slot));
        END LOOP;
        v_emptied := v_emptied + 1;
    END LOOP;
    RETURN v_emptied;
END
$$;

-- empty_session_slots: empty the groups of sessions that are all over; a group is 192 buckets by last bucket.
CREATE OR REPLACE FUNCTION qflare.empty_session_slots() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_slot    integer;
    v_first   bigint;
    v_last    bigint;
    v_emptied integer := 0;
BEGIN
    -- Every session that is not over ends within a lifetime of the newest published bucket.
    SELECT m.expired_before,
           greatest(m.expired_before, m.bucket, (SELECT max(k.bucket) FROM qflare.bucket_key AS k)) + 289
      INTO STRICT v_first, v_last FROM qflare.bucket_mark AS m;
    FOR v_slot IN 0 .. 3 LOOP
        CONTINUE WHEN pg_relation_size(format('qflare.session_slot_%s', v_slot)) = 0
                  AND pg_relation_size(format('qflare.session_route_slot_%s', v_slot)) = 0;
        CONTINUE WHEN EXISTS (SELECT FROM generate_series(v_first / 192, v_last / 192) AS g WHERE g % 4 = v_slot);
        EXECUTE format('TRUNCATE qflare.%I, qflare.%I',
                       format('session_slot_%s', v_slot), format('session_route_slot_%s', v_slot));
        v_emptied := v_emptied + 1;
    END LOOP;
    RETURN v_emptied;
END
$$;

-- empty_call_slots: empty the partition that changes go into next; what lies in it is a day old at least.
CREATE OR REPLACE FUNCTION qflare.empty_call_slots() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET enable_seqscan = off AS $$
DECLARE
    v_turn  CONSTANT bigint := floor(extract(epoch FROM clock_timestamp()) / 43200)::bigint;
    v_table CONSTANT text   := format('call_slot_%s', (v_turn + 1) % 4);
BEGIN
    IF pg_relation_size(format('qflare.%I', v_table)) = 0 THEN
        RETURN 0;
    END IF;
    EXECUTE format('LOCK TABLE qflare.%I IN ACCESS EXCLUSIVE MODE', v_table);
    -- After the wait: the turn may have come meanwhile, and then new changes lie in it.
    IF floor(extract(epoch FROM clock_timestamp()) / 43200)::bigint <> v_turn THEN
        RETURN 0;
    END IF;
    EXECUTE format('TRUNCATE qflare.%I', v_table);
    RETURN 1;
END
$$;

-- Who may call what ----------------------------------------------------------------------------------------------------
RESET ROLE;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA qflare FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA qflare TO qflare_app;
GRANT EXECUTE ON FUNCTION qflare.hold_buckets(bigint[]) TO qflare_maintenance;

INSERT INTO qflare.schema_version (version)
SELECT generate_series(1, current_setting('qflare.installs_version')::integer) ON CONFLICT DO NOTHING;

COMMIT;
