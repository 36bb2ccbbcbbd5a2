-- What became of each attempt that did not simply finish: the last 20 of a job, for slot is number modulo 20 (docs/dead-letters.md).
CREATE TABLE IF NOT EXISTS asyncsend_attempts (
  job_id   BIGINT UNSIGNED  NOT NULL,
  slot     TINYINT UNSIGNED NOT NULL,
  number   INT UNSIGNED     NOT NULL,                                                -- goes on counting when the job is replayed
  ended_at TIMESTAMP(6)     NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  run_id   BIGINT UNSIGNED  NULL DEFAULT NULL,                                       -- generation of the run that had claimed it
  seconds  DOUBLE           NOT NULL DEFAULT 0,
  became   VARCHAR(16)      CHARACTER SET ascii COLLATE ascii_bin NOT NULL,          -- retried, snoozed, dead, held, cancelled, crashed
  reason   VARCHAR(64)      CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL,
  error    VARCHAR(500)     CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NULL DEFAULT NULL,
  PRIMARY KEY (job_id, slot),
  KEY attempts_to_prune (ended_at)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- Why the last pruning stopped; NULL: it did not.
ALTER TABLE asyncsend_status ADD COLUMN prune_error VARCHAR(500) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NULL DEFAULT NULL;

INSERT IGNORE INTO asyncsend_schema (version) VALUES (6);
