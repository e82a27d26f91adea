-- The record of a bucket's key whose announcement was signed again says in the end that the key is destroyed.
-- Workers of version 14 go on: the trigger is called as before.

SET LOCAL ROLE qflare_owner;

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

-- What was passed over so far: their rows, and with them the sealed keys, are gone.
SELECT set_config('qflare.reason', 'its bucket is over', true);
UPDATE qflare.bucket_record AS k
   SET state = 'destroyed'
 WHERE k.state = 'deactivated'
   AND NOT EXISTS (SELECT FROM qflare.bucket_key AS b WHERE b.bucket = k.bucket);
SELECT set_config('qflare.reason', '', true);

RESET ROLE;
