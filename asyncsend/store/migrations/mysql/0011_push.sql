-- The channel of Pusher that hears how far a batch is (docs/pusher.md), and when it last did.
ALTER TABLE asyncsend_batches ADD COLUMN push VARCHAR(191) CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL;
ALTER TABLE asyncsend_batches ADD COLUMN pushed_at TIMESTAMP(6) NULL DEFAULT NULL;

INSERT IGNORE INTO asyncsend_schema (version) VALUES (11);
