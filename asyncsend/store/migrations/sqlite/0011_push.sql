-- The channel of Pusher that hears how far a batch is (docs/pusher.md), and when it last did.
ALTER TABLE asyncsend_batches ADD COLUMN push TEXT NULL DEFAULT NULL;
ALTER TABLE asyncsend_batches ADD COLUMN pushed_at TEXT NULL DEFAULT NULL;

INSERT OR IGNORE INTO asyncsend_schema (version) VALUES (11);
