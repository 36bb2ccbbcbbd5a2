-- A batch: the jobs that bear its uid in batch_id, and what follows when they are through. What is left of it is never stored, but counted.
CREATE TABLE IF NOT EXISTS asyncsend_batches (
  uid              TEXT    NOT NULL PRIMARY KEY CHECK (length(uid) <= 64),
  name             TEXT    NOT NULL DEFAULT '',
  allow_failures   INTEGER NOT NULL DEFAULT 1,  -- 0: the first dead job cancels what has not started
  then_job         TEXT    NULL,  -- {"task": ..., "payload": {...}}: added when every job is done
  catch_job        TEXT    NULL,  -- added at the first dead job
  finally_job      TEXT    NULL,  -- added when nothing is left, whatever became of it
  created_at       TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  sealed_at        TEXT    NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),  -- NULL: jobs are still being added, it cannot be through yet
  started_at       TEXT    NULL DEFAULT NULL,  -- when the first of it was finished
  caught_at        TEXT    NULL DEFAULT NULL,  -- when a run saw its first dead job
  cancelled_at     TEXT    NULL DEFAULT NULL,
  finished_at      TEXT    NULL DEFAULT NULL,
  progress         INTEGER NOT NULL DEFAULT 0,  -- the highest percentage that was shown
  pruned_done      INTEGER NOT NULL DEFAULT 0,  -- finished jobs whose rows are deleted
  pruned_dead      INTEGER NOT NULL DEFAULT 0,
  pruned_cancelled INTEGER NOT NULL DEFAULT 0,
  reason           TEXT    NULL DEFAULT NULL  -- why a follower could not be added
);
CREATE INDEX IF NOT EXISTS asyncsend_batches_batches_open ON asyncsend_batches (finished_at);

-- What is left of a batch, in one short range.
CREATE INDEX IF NOT EXISTS asyncsend_jobs_jobs_of_batch ON asyncsend_jobs (batch_id, unique_slot);

INSERT OR IGNORE INTO asyncsend_schema (version) VALUES (2);
