-- name: insert_tenant :exec
-- $1 tenant_id uuid, $2 name text
INSERT INTO qflare.tenant (tenant_id, name)
VALUES ($1, $2);

-- name: list_tenants :many
-- Every tenant in order of name.
SELECT t.tenant_id, t.name
  FROM qflare.list_tenants() AS t;
