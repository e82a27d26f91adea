-- Operators, who may look at their tenant's page.
--
-- Safe while the version before still runs: it neither reads nor writes what is new here.

SET LOCAL ROLE qflare_owner;

-- People who may look at a tenant's page, and what their secrets are compared with (scrypt, RFC 7914); read at each
-- login and, for the state, at each look.
CREATE TABLE qflare.operator (
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

ALTER TABLE qflare.operator ENABLE ROW LEVEL SECURITY;
ALTER TABLE qflare.operator FORCE ROW LEVEL SECURITY;
CREATE POLICY operator_of_tenant ON qflare.operator TO qflare_app
    USING (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid))
    WITH CHECK (tenant_id = (SELECT NULLIF(current_setting('qflare.tenant', true), '')::uuid));
CREATE POLICY operator_for_auditor ON qflare.operator FOR SELECT TO qflare_auditor USING (true);
GRANT SELECT ON qflare.operator TO qflare_auditor;
GRANT SELECT, INSERT, UPDATE ON qflare.operator TO qflare_app;

CREATE TRIGGER operator_state_first BEFORE INSERT ON qflare.operator FOR EACH ROW WHEN (NEW.state <> 'active')
    EXECUTE FUNCTION qflare.refuse_illegal_move('operator', 'token');
CREATE TRIGGER operator_state_move BEFORE UPDATE OF state ON qflare.operator FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION qflare.refuse_illegal_move('operator', 'token');

RESET ROLE;
