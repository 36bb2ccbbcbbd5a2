-- What runs have settled, per queue and task: a row per hour, per day, and one that is never deleted. Written in the transaction of what it counts.
CREATE TABLE IF NOT EXISTS asyncsend_counters (
  span      TEXT    NOT NULL CHECK (span IN ('hour','day','ever')),
  began     TEXT    NOT NULL,  -- when the hour or the day (UTC) began; 1970-01-02 for ever
  queue     TEXT    NOT NULL CHECK (length(queue) <= 64),
  task      TEXT    NOT NULL CHECK (length(task) <= 128),  -- other, once there are too many of them
  done      INTEGER NOT NULL DEFAULT 0,
  retried   INTEGER NOT NULL DEFAULT 0,
  snoozed   INTEGER NOT NULL DEFAULT 0,
  dead      INTEGER NOT NULL DEFAULT 0,
  held      INTEGER NOT NULL DEFAULT 0,
  cancelled INTEGER NOT NULL DEFAULT 0,
  released  INTEGER NOT NULL DEFAULT 0,
  late      INTEGER NOT NULL DEFAULT 0,
  seconds   REAL    NOT NULL DEFAULT 0,  -- of execution
  h0        INTEGER NOT NULL DEFAULT 0,  -- executions that took at most 1 ms
  h1        INTEGER NOT NULL DEFAULT 0,  -- at most 2 ms
  h2        INTEGER NOT NULL DEFAULT 0,  -- at most 4 ms
  h3        INTEGER NOT NULL DEFAULT 0,  -- at most 8 ms
  h4        INTEGER NOT NULL DEFAULT 0,  -- at most 16 ms
  h5        INTEGER NOT NULL DEFAULT 0,  -- at most 32 ms
  h6        INTEGER NOT NULL DEFAULT 0,  -- at most 64 ms
  h7        INTEGER NOT NULL DEFAULT 0,  -- at most 128 ms
  h8        INTEGER NOT NULL DEFAULT 0,  -- at most 256 ms
  h9        INTEGER NOT NULL DEFAULT 0,  -- at most 512 ms
  h10       INTEGER NOT NULL DEFAULT 0,  -- at most 1 s
  h11       INTEGER NOT NULL DEFAULT 0,  -- at most 2 s
  h12       INTEGER NOT NULL DEFAULT 0,  -- at most 4 s
  h13       INTEGER NOT NULL DEFAULT 0,  -- at most 8 s
  h14       INTEGER NOT NULL DEFAULT 0,  -- at most 16 s
  h15       INTEGER NOT NULL DEFAULT 0,  -- at most 33 s
  h16       INTEGER NOT NULL DEFAULT 0,  -- at most 66 s
  h17       INTEGER NOT NULL DEFAULT 0,  -- at most 131 s
  h18       INTEGER NOT NULL DEFAULT 0,  -- at most 262 s
  h19       INTEGER NOT NULL DEFAULT 0,  -- at most 524 s
  h20       INTEGER NOT NULL DEFAULT 0,  -- longer
  PRIMARY KEY (span, began, queue, task)
);

-- What a person was told, or will be: one row per cause, and one (looked) that says when a run looked last.
CREATE TABLE IF NOT EXISTS asyncsend_alerts (
  cause   TEXT    NOT NULL PRIMARY KEY CHECK (length(cause) <= 96),  -- dead, lag, silence, waiting:smtp-login, ...
  since   TEXT    NULL,
  sent_at TEXT    NULL,  -- the last message about it; not again for six hours
  over_at TEXT    NULL,  -- NULL while it lasts
  times   INTEGER NOT NULL DEFAULT 0,  -- messages about it; of looked: looks
  said    TEXT    NULL
);

INSERT OR IGNORE INTO asyncsend_alerts (cause) VALUES ('looked');

-- When the last runs started, the newest first, seconds since 1970: from these comes "next run expected".
ALTER TABLE asyncsend_status ADD COLUMN ticks TEXT NULL DEFAULT NULL;

-- How much of its time a run spent on executing jobs.
ALTER TABLE asyncsend_runs ADD COLUMN workers INTEGER NOT NULL DEFAULT 1;
ALTER TABLE asyncsend_runs ADD COLUMN worked REAL NOT NULL DEFAULT 0;

INSERT OR IGNORE INTO asyncsend_schema (version) VALUES (7);
