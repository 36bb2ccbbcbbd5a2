-- A batch: the jobs that bear its uid in batch_id, and what follows when they are through. What is left of it is never stored, but counted.
CREATE TABLE IF NOT EXISTS asyncsend_batches (
  uid              VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  name             VARCHAR(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT '',
  allow_failures   TINYINT      NOT NULL DEFAULT 1,                                   -- 0: the first dead job cancels what has not started
  then_job         MEDIUMTEXT   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,       -- {"task": ..., "payload": {...}}: added when every job is done
  catch_job        MEDIUMTEXT   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,       -- added at the first dead job
  finally_job      MEDIUMTEXT   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,       -- added when nothing is left, whatever became of it
  created_at       TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  sealed_at        TIMESTAMP(6) NULL DEFAULT CURRENT_TIMESTAMP(6),                    -- NULL: jobs are still being added, it cannot be through yet
  started_at       TIMESTAMP(6) NULL DEFAULT NULL,                                    -- when the first of it was finished
  caught_at        TIMESTAMP(6) NULL DEFAULT NULL,                                    -- when a run saw its first dead job
  cancelled_at     TIMESTAMP(6) NULL DEFAULT NULL,
  finished_at      TIMESTAMP(6) NULL DEFAULT NULL,
  progress         TINYINT      NOT NULL DEFAULT 0,                                   -- the highest percentage that was shown
  pruned_done      INT UNSIGNED NOT NULL DEFAULT 0,                                   -- finished jobs whose rows are deleted
  pruned_dead      INT UNSIGNED NOT NULL DEFAULT 0,
  pruned_cancelled INT UNSIGNED NOT NULL DEFAULT 0,
  reason           VARCHAR(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL DEFAULT NULL,  -- why a follower could not be added
  PRIMARY KEY (uid),
  KEY batches_open (finished_at)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- What is left of a batch, in one short range.
ALTER TABLE asyncsend_jobs ADD KEY jobs_of_batch (batch_id, unique_slot);

INSERT IGNORE INTO asyncsend_schema (version) VALUES (2);
