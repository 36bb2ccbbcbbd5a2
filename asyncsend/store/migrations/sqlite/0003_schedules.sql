-- What recurs: each run makes one job for each due time, and moves next_at in the same transaction (docs/schedules.md).
CREATE TABLE IF NOT EXISTS asyncsend_schedules (
  name            TEXT    NOT NULL CHECK (typeof(name) = 'text' AND length(name) BETWEEN 1 AND 38),  -- with it the uid of a job, schedule-<name>-<due time>, has 64 characters
  cron            TEXT    NOT NULL CHECK (typeof(cron) = 'text' AND length(cron) <= 191),  -- five fields
  tz              TEXT    NOT NULL DEFAULT 'UTC' CHECK (typeof(tz) = 'text' AND length(tz) <= 64),
  task            TEXT    NOT NULL CHECK (typeof(task) = 'text' AND length(task) BETWEEN 1 AND 128),
  payload         TEXT    NOT NULL CHECK (typeof(payload) = 'text'),
  queue           TEXT    NOT NULL DEFAULT 'default' CHECK (typeof(queue) = 'text' AND length(queue) <= 64),
  priority        INTEGER NOT NULL DEFAULT 0 CHECK (typeof(priority) = 'integer' AND priority BETWEEN -32768 AND 32767),
  catch_up        TEXT    NOT NULL DEFAULT 'one' CHECK (catch_up IN ('one','all','none')),  -- what becomes of missed times
  paused          INTEGER NOT NULL DEFAULT 0,
  next_at         TEXT    NULL DEFAULT NULL,  -- NULL = makes nothing more; reason says why
  last_at         TEXT    NULL DEFAULT NULL,  -- the newest due time that became a job
  created_at      TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  reason          TEXT    NULL DEFAULT NULL,
  PRIMARY KEY (name)
);
CREATE INDEX IF NOT EXISTS asyncsend_schedules_schedules_due ON asyncsend_schedules (paused, next_at);

INSERT OR IGNORE INTO asyncsend_schema (version) VALUES (3);
