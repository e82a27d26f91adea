-- A database has another life once it was restored and accepted, so that workers that ran on the one before are told.
-- Workers of version 21 go on: what they count stays, and the column that is new has a default.

SET LOCAL ROLE qflare_owner;

ALTER TABLE qflare.store_pulse ADD COLUMN life uuid NOT NULL DEFAULT gen_random_uuid();

RESET ROLE;
