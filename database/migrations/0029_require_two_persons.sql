-- Two-person control: what nothing takes back needs two operators also where it is done by hand, once a tenant says so.
--
-- Safe while the version before still runs: nobody can have turned it on, and from then on it is refused what it may not do.

SET LOCAL ROLE qflare_owner;

-- Whether what nothing takes back needs two operators of the tenant also where it is done by hand: no row, or is_on false,
-- says no.  Written by operators, one to turn it on and two to turn it off; read whenever a device or the identity ends.
CREATE TABLE qflare.two_person_control (
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

ALTER TABLE qflare.two_person_control ENABLE ROW LEVEL SECURITY;
ALTER TABLE qflare.two_person_control FORCE ROW LEVEL SECURITY;
CREATE POLICY two_person_control_of_tenant ON qflare.two_person_control TO qflare_app
    USING (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid));
CREATE POLICY two_person_control_for_auditor ON qflare.two_person_control FOR SELECT TO qflare_auditor USING (true);
GRANT SELECT ON qflare.two_person_control TO qflare_auditor;
GRANT SELECT, INSERT, UPDATE ON qflare.two_person_control TO qflare_app;

-- Refuse that two-person control ends without having been asked for before, within a day, by an operator who still is one.
CREATE FUNCTION qflare.refuse_sudden_end() RETURNS trigger
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
CREATE TRIGGER two_person_control_asked_before BEFORE UPDATE OF is_on ON qflare.two_person_control FOR EACH ROW
    WHEN (OLD.is_on AND NOT NEW.is_on) EXECUTE FUNCTION qflare.refuse_sudden_end();

-- Where two-person control is on, refuse what nothing takes back unless a response that two operators want does it.
-- Of a device: the response stands as proposed until its transaction ends; of the identity: as begun.
CREATE FUNCTION qflare.refuse_single_hand() RETURNS trigger
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
CREATE TRIGGER device_two_persons BEFORE UPDATE OF state ON qflare.device FOR EACH ROW
    WHEN (OLD.state IN ('pre-active', 'active', 'suspended') AND NEW.state IN ('deactivated', 'compromised', 'destroyed'))
    EXECUTE FUNCTION qflare.refuse_single_hand();
-- A root that is kept offline signs by another hand already.
CREATE TRIGGER server_identity_two_persons BEFORE INSERT ON qflare.server_identity FOR EACH ROW
    WHEN (NEW.sealed_root IS NOT NULL) EXECUTE FUNCTION qflare.refuse_single_hand();

RESET ROLE;
REVOKE ALL ON FUNCTION qflare.refuse_sudden_end(), qflare.refuse_single_hand() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION qflare.refuse_sudden_end(), qflare.refuse_single_hand() TO qflare_app;
