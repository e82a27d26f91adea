-- A proof plans its look-up of leaves once for a connection, not in each call.
-- Workers of version 27 go on: the function returns what it did.

SET LOCAL ROLE qflare_maintenance;
ALTER FUNCTION qflare.find_leaves(bigint[]) SET plan_cache_mode = force_generic_plan;
RESET ROLE;
