-- What became of each attempt that did not simply finish: the last 20 of a job, for slot is number modulo 20 (docs/dead-letters.md).
CREATE TABLE IF NOT EXISTS asyncsend_attempts (
  job_id   INTEGER NOT NULL,
  slot     INTEGER NOT NULL,
  number   INTEGER NOT NULL,  -- goes on counting when the job is replayed
  ended_at TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  run_id   INTEGER NULL DEFAULT NULL,  -- generation of the run that had claimed it
  seconds  REAL    NOT NULL DEFAULT 0,
  became   TEXT    NOT NULL,  -- retried, snoozed, dead, held, cancelled, crashed
  reason   TEXT    NULL DEFAULT NULL,
  error    TEXT    NULL DEFAULT NULL,
  PRIMARY KEY (job_id, slot)
);
CREATE INDEX IF NOT EXISTS asyncsend_attempts_attempts_to_prune ON asyncsend_attempts (ended_at);

-- Why the last pruning stopped; NULL: it did not.
ALTER TABLE asyncsend_status ADD COLUMN prune_error TEXT NULL DEFAULT NULL;

INSERT OR IGNORE INTO asyncsend_schema (version) VALUES (6);
