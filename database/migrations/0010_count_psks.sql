-- A psk is sealed for its version, so that an older one put back into its own row does not open.
-- Workers of version 9 go on: what they seal has version 0, as all before, and opens until it is written next.  A psk
-- that a worker of version 10 set they do not open and cannot replace: they refuse its device until they are upgraded.

SET LOCAL ROLE qflare_owner;

ALTER TABLE qflare.device ADD COLUMN psk_version bigint NOT NULL DEFAULT 0;
ALTER TABLE qflare.device ADD CONSTRAINT device_psk_version_range CHECK (psk_version >= 0);

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

-- find_roster: roster rows with their current keys; find_devices without the psk's version, for workers of version 9.
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

RESET ROLE;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA qflare FROM PUBLIC;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA qflare TO qflare_app;
