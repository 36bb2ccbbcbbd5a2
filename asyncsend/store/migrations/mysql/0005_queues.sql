-- Order keys and concurrency keys (docs/queues.md). One statement: it happens whole or not at all, and rebuilds the table once.
ALTER TABLE asyncsend_jobs
  ADD COLUMN order_key       VARBINARY(191) NULL DEFAULT NULL,
  ADD COLUMN concurrency_key VARBINARY(191) NULL DEFAULT NULL,
  ADD COLUMN lane            VARBINARY(192) NOT NULL DEFAULT '',
  ADD KEY jobs_in_order (unique_slot, order_key, id),
  DROP KEY jobs_to_claim,
  ADD KEY jobs_to_claim (state, queue, lane, priority, run_at, id);

-- Whether any job may stand in a lane: a run then looks at each lane first.
ALTER TABLE asyncsend_status ADD COLUMN aside TINYINT NOT NULL DEFAULT 0;

INSERT IGNORE INTO asyncsend_schema (version) VALUES (5);
