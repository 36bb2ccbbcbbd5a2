-- A job. Only task and payload have to be given; every other column has a default:
--   INSERT INTO asyncsend_jobs (task, payload) VALUES ('email', '{"to":"ann@example.com","subject":"Hi","text":"Hello"}');
CREATE TABLE IF NOT EXISTS asyncsend_jobs (
  id              INTEGER PRIMARY KEY AUTOINCREMENT,
  -- what the producer sets
  task            TEXT    NOT NULL CHECK (typeof(task) = 'text' AND length(task) BETWEEN 1 AND 128),  -- email, sms, webhook, command.<name>, or a function of yours
  payload         TEXT    NOT NULL CHECK (typeof(payload) = 'text'),  -- a JSON object of at most 4 MiB
  queue           TEXT    NOT NULL DEFAULT 'default' CHECK (typeof(queue) = 'text' AND length(queue) <= 64),
  priority        INTEGER NOT NULL DEFAULT 0 CHECK (typeof(priority) = 'integer' AND priority BETWEEN -32768 AND 32767),  -- higher runs first within its queue
  run_at          TEXT    NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')) CHECK (run_at IS NULL OR run_at GLOB '[12][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]*'),  -- not before this instant; NULL = now
  expires_at      TEXT    NULL DEFAULT NULL CHECK (expires_at IS NULL OR expires_at GLOB '[12][0-9][0-9][0-9]-[01][0-9]-[0-3][0-9] [0-2][0-9]:[0-5][0-9]:[0-5][0-9]*'),  -- not started by then: cancelled
  max_attempts    INTEGER NULL DEFAULT NULL CHECK (max_attempts IS NULL OR typeof(max_attempts) = 'integer'),  -- NULL = the task's own number; below 1 counts as 1
  timeout_seconds INTEGER NULL DEFAULT NULL CHECK (timeout_seconds IS NULL OR typeof(timeout_seconds) = 'integer'),  -- NULL = the task's own; below 1 counts as 1
  unique_key      TEXT    NULL DEFAULT NULL CHECK (unique_key IS NULL OR length(unique_key) <= 191),  -- at most one unfinished job has it, byte for byte
  uid             TEXT    NULL DEFAULT NULL CHECK (uid IS NULL OR length(uid) <= 64),  -- the producer's own id: a second INSERT of it is refused
  batch_id        TEXT    NULL DEFAULT NULL,
  -- what a run sets
  state           TEXT    NOT NULL DEFAULT 'ready' CHECK (state IN ('ready','running','done','dead','held','cancelled')),
  attempts        INTEGER NOT NULL DEFAULT 0,  -- attempts that came to an outcome and were charged
  crashes         INTEGER NOT NULL DEFAULT 0,  -- deaths of the whole run while this job was in flight
  token           BLOB    NULL DEFAULT NULL,  -- fresh with every claim: it fences late writes
  run_id          INTEGER NULL DEFAULT NULL,
  unique_slot     INTEGER NULL DEFAULT 0,  -- 0 while unfinished, NULL after, if the job has a key to free
  created_at      TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  started_at      TEXT    NULL DEFAULT NULL,  -- start mark of an at-most-once job, committed before its effect
  finished_at     TEXT    NULL DEFAULT NULL,
  reason          TEXT    NULL DEFAULT NULL,
  error           TEXT    NULL,
  result          TEXT    NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS asyncsend_jobs_one_job_per_uid ON asyncsend_jobs (uid);
CREATE UNIQUE INDEX IF NOT EXISTS asyncsend_jobs_one_unfinished_job_per_key ON asyncsend_jobs (unique_key, unique_slot);
CREATE INDEX IF NOT EXISTS asyncsend_jobs_jobs_to_claim ON asyncsend_jobs (state, queue, priority, run_at, id);
CREATE INDEX IF NOT EXISTS asyncsend_jobs_jobs_to_prune ON asyncsend_jobs (finished_at);

-- Who runs, one row per scope. A person reads `status`; a run believes only `owner` and `lease_until`.
CREATE TABLE IF NOT EXISTS asyncsend_status (
  scope               TEXT    NOT NULL,
  status              TEXT    NOT NULL DEFAULT 'idle' CHECK (status IN ('idle','in-progress')),
  owner               TEXT    NULL DEFAULT NULL,
  generation          INTEGER NOT NULL DEFAULT 0,  -- counts the runs; the fencing number
  lock_id             TEXT    NULL DEFAULT NULL,  -- the lock file the owner holds
  host                TEXT    NULL DEFAULT NULL,
  pid                 INTEGER NULL DEFAULT NULL,
  started_at          TEXT    NULL DEFAULT NULL,
  previous_started_at TEXT    NULL DEFAULT NULL,  -- from these two comes "next cron expected"
  lease_until         TEXT    NULL DEFAULT NULL,
  beat                INTEGER NOT NULL DEFAULT 0,
  finished_at         TEXT    NULL DEFAULT NULL,
  stopped             TEXT    NULL DEFAULT NULL,  -- why the last run ended: empty, max-time, sigterm, ...
  lock_held           INTEGER NOT NULL DEFAULT 0,  -- runs that found the lock held and left
  pruned_at           TEXT    NULL DEFAULT NULL,
  PRIMARY KEY (scope)
);

-- The history of the runs that had work; an empty minute leaves no row.
CREATE TABLE IF NOT EXISTS asyncsend_runs (
  id              INTEGER PRIMARY KEY AUTOINCREMENT,
  scope           TEXT    NOT NULL,
  generation      INTEGER NOT NULL,
  host            TEXT    NOT NULL,
  pid             INTEGER NOT NULL,
  started_at      TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  finished_at     TEXT    NULL DEFAULT NULL,
  stopped         TEXT    NULL DEFAULT NULL,  -- died: it was killed and a later run closed it
  claimed         INTEGER NOT NULL DEFAULT 0,
  done            INTEGER NOT NULL DEFAULT 0,
  retried         INTEGER NOT NULL DEFAULT 0,
  snoozed         INTEGER NOT NULL DEFAULT 0,
  dead            INTEGER NOT NULL DEFAULT 0,
  held            INTEGER NOT NULL DEFAULT 0,
  cancelled       INTEGER NOT NULL DEFAULT 0,
  released        INTEGER NOT NULL DEFAULT 0,
  rescued         INTEGER NOT NULL DEFAULT 0,
  replayed        INTEGER NOT NULL DEFAULT 0,
  late            INTEGER NOT NULL DEFAULT 0  -- results refused because the claim was no longer ours
);
CREATE UNIQUE INDEX IF NOT EXISTS asyncsend_runs_one_row_per_run ON asyncsend_runs (scope, generation);
CREATE INDEX IF NOT EXISTS asyncsend_runs_runs_to_prune ON asyncsend_runs (started_at);

-- A row here is the pause.
CREATE TABLE IF NOT EXISTS asyncsend_pauses (
  queue           TEXT    NOT NULL,
  paused_at       TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  paused_until    TEXT    NULL DEFAULT NULL,  -- NULL = until resumed
  PRIMARY KEY (queue)
);

-- One row per applied migration; the highest is the version of these tables.
CREATE TABLE IF NOT EXISTS asyncsend_schema (
  version         INTEGER NOT NULL,
  applied_at      TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  PRIMARY KEY (version)
);

INSERT OR IGNORE INTO asyncsend_status (scope) VALUES ('default');

INSERT OR IGNORE INTO asyncsend_schema (version) VALUES (1);
