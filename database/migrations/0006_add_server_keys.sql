-- The keys of the server's identity with their states; certificates that follow one another.
--
-- Safe while the version before still runs: it reads the identity once, at its start, and writes one into an empty
-- database only, where the trigger notes its keys.  Rotate when every worker is of this version: the one before would go
-- on signing under the old keys until it is started again.

SET LOCAL ROLE qflare_owner;

ALTER TABLE qflare.server_identity ALTER COLUMN sealed_announce DROP NOT NULL;
ALTER TABLE qflare.server_identity ALTER COLUMN sealed_log DROP NOT NULL;
ALTER TABLE qflare.server_identity ADD COLUMN current_from bigint NOT NULL DEFAULT 0;
ALTER TABLE qflare.server_identity
    ADD CONSTRAINT server_identity_current_from_range CHECK (current_from >= 0);

CREATE TABLE qflare.server_key (
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
CREATE UNIQUE INDEX server_key_kind_once ON qflare.server_key (serial, kind) WHERE state <> 'destroyed';

GRANT SELECT ON qflare.server_key TO qflare_auditor;
GRANT SELECT, INSERT, UPDATE ON qflare.server_key TO qflare_app;
GRANT UPDATE (announcement) ON qflare.bucket_key TO qflare_app;
GRANT UPDATE (sealed_root, sealed_announce, sealed_log) ON qflare.server_identity TO qflare_app;

-- A certificate makes the keys in it active, those that waited for it among them; its root is noted once.
CREATE FUNCTION qflare.note_identity_keys() RETURNS trigger
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
CREATE TRIGGER server_identity_keys AFTER INSERT ON qflare.server_identity
    FOR EACH ROW EXECUTE FUNCTION qflare.note_identity_keys();
CREATE TRIGGER server_key_state_move BEFORE UPDATE OF state ON qflare.server_key
    FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION qflare.refuse_illegal_move();

REVOKE ALL ON FUNCTION qflare.note_identity_keys() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qflare.note_identity_keys() TO qflare_app;

-- The keys of the certificates that stand: the highest serial's are active, those before it were superseded.
INSERT INTO qflare.server_key (key_id, serial, kind, public_key, state, state_reason, created_at)
SELECT sha256(k.public_key), i.serial, k.kind, k.public_key,
       CASE WHEN i.serial = max(i.serial) OVER () THEN 'active' ELSE 'deactivated' END,
       'certificate of serial ' || i.serial, i.created_at
  FROM qflare.server_identity AS i,
       LATERAL (VALUES ('announce', substr(i.certificate, 51, 1312)), ('log', substr(i.certificate, 1363, 1312)))
               AS k (kind, public_key)
ON CONFLICT DO NOTHING;
INSERT INTO qflare.server_key (key_id, serial, kind, public_key, state, state_reason, created_at)
SELECT DISTINCT ON (i.root_key)
       sha256(i.root_key), i.serial, 'root', i.root_key, 'active', 'certificate of serial ' || i.serial, i.created_at
  FROM qflare.server_identity AS i
 ORDER BY i.root_key, i.serial
ON CONFLICT DO NOTHING;

RESET ROLE;
