-- name: enter :exec
-- Become the application's role inside one tenant until the transaction ends.
-- $1 tenant_id uuid
SELECT qflare.enter($1);

-- name: set_lock_timeout :exec
-- Wait for locks no longer than this in the present transaction.
-- $1 value text, such as '200ms'
SELECT set_config('lock_timeout', $1, true);

-- name: set_idle_timeout :exec
-- End the present transaction's connection when it has been silent for this long.
-- $1 value text, such as '10s'
SELECT set_config('idle_in_transaction_session_timeout', $1, true);
