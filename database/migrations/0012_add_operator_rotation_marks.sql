-- Rotation marks that an operator asks for, beside those that a policy makes.
--
-- Safe while version 11 still runs: nothing makes such a mark until somebody asks for one. A worker of version 11 does
-- not know the reason, so all workers come first, and requests after them. The look at every mark, one row a device at most,
-- takes well under a second a million.

ALTER TABLE qflare.rotation_mark
    DROP CONSTRAINT rotation_mark_reason_known,
    ADD CONSTRAINT rotation_mark_reason_known CHECK (reason IN ('age', 'records', 'bytes', 'operator'));
