-- Order keys and concurrency keys (docs/queues.md).
ALTER TABLE asyncsend_jobs ADD COLUMN order_key TEXT NULL DEFAULT NULL CHECK (order_key IS NULL OR (typeof(order_key) = 'text' AND length(order_key) <= 191));
ALTER TABLE asyncsend_jobs ADD COLUMN concurrency_key TEXT NULL DEFAULT NULL CHECK (concurrency_key IS NULL OR (typeof(concurrency_key) = 'text' AND length(concurrency_key) <= 191));
ALTER TABLE asyncsend_jobs ADD COLUMN lane TEXT NOT NULL DEFAULT '';
CREATE INDEX IF NOT EXISTS asyncsend_jobs_jobs_in_order ON asyncsend_jobs (unique_slot, order_key, id);
DROP INDEX IF EXISTS asyncsend_jobs_jobs_to_claim;
CREATE INDEX IF NOT EXISTS asyncsend_jobs_jobs_to_claim ON asyncsend_jobs (state, queue, lane, priority, run_at, id);

-- Whether any job may stand in a lane: a run then looks at each lane first.
ALTER TABLE asyncsend_status ADD COLUMN aside INTEGER NOT NULL DEFAULT 0;

INSERT OR IGNORE INTO asyncsend_schema (version) VALUES (5);
