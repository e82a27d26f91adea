-- Rows of the table that version 30 brings; run by a superuser.
INSERT INTO qflare.worker_beat (worker_id) VALUES (gen_random_uuid());
