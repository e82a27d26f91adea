-- Who acknowledged, opened again or closed an incident stands with it.
--
-- Safe while the version before still runs: it leaves the column alone, which may be null.

SET LOCAL ROLE qflare_owner;

ALTER TABLE qflare.incident ADD COLUMN changed_by text COLLATE "C";
ALTER TABLE qflare.incident ADD CONSTRAINT incident_changed_by_operator FOREIGN KEY (changed_by, tenant_id)
    REFERENCES qflare.operator (name, tenant_id);

RESET ROLE;
