-- A job. Only task and payload have to be given; every other column has a default:
--   INSERT INTO asyncsend_jobs (task, payload) VALUES ('email', '{"to":"ann@example.com","subject":"Hi","text":"Hello"}');
CREATE TABLE IF NOT EXISTS asyncsend_jobs (
  id              BIGINT UNSIGNED   NOT NULL AUTO_INCREMENT,
  -- what the producer sets
  task            VARCHAR(128)      CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,                    -- email, sms, webhook, command.<name>, or a function of yours
  payload         LONGTEXT          CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,                    -- a JSON object of at most 4 MiB
  queue           VARCHAR(64)       CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT 'default',
  priority        SMALLINT          NOT NULL DEFAULT 0,                              -- higher runs first within its queue
  run_at          TIMESTAMP(6)      NULL DEFAULT CURRENT_TIMESTAMP(6),               -- not before this instant; NULL = now
  expires_at      TIMESTAMP(6)      NULL DEFAULT NULL,                               -- not started by then: cancelled
  max_attempts    SMALLINT          NULL DEFAULT NULL,                               -- NULL = the task's own number; below 1 counts as 1
  timeout_seconds INT               NULL DEFAULT NULL,                               -- NULL = the task's own; below 1 counts as 1
  unique_key      VARBINARY(191)    NULL DEFAULT NULL,                               -- at most one unfinished job has it, byte for byte
  uid             VARCHAR(64)       CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL,  -- the producer's own id: a second INSERT of it is refused
  batch_id        VARCHAR(64)       CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL,
  -- what a run sets
  state           ENUM('ready','running','done','dead','held','cancelled') NOT NULL DEFAULT 'ready',
  attempts        SMALLINT UNSIGNED NOT NULL DEFAULT 0,                              -- attempts that came to an outcome and were charged
  crashes         SMALLINT UNSIGNED NOT NULL DEFAULT 0,                              -- deaths of the whole run while this job was in flight
  token           BINARY(16)        NULL DEFAULT NULL,                               -- fresh with every claim: it fences late writes
  run_id          BIGINT UNSIGNED   NULL DEFAULT NULL,
  unique_slot     TINYINT           NULL DEFAULT 0,                                  -- 0 while unfinished, NULL after, if the job has a key to free
  created_at      TIMESTAMP(6)      NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  started_at      TIMESTAMP(6)      NULL DEFAULT NULL,                               -- start mark of an at-most-once job, committed before its effect
  finished_at     TIMESTAMP(6)      NULL DEFAULT NULL,
  reason          VARCHAR(64)       CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL,
  error           TEXT              CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NULL,
  result          MEDIUMTEXT        CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,
  PRIMARY KEY (id),
  UNIQUE KEY one_job_per_uid (uid),
  UNIQUE KEY one_unfinished_job_per_key (unique_key, unique_slot),
  KEY jobs_to_claim (state, queue, priority, run_at, id),
  KEY jobs_to_prune (finished_at)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- Who runs, one row per scope. A person reads `status`; a run believes only `owner` and `lease_until`.
CREATE TABLE IF NOT EXISTS asyncsend_status (
  scope               VARCHAR(64)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  status              ENUM('idle','in-progress') NOT NULL DEFAULT 'idle',
  owner               CHAR(32)        CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL,
  generation          BIGINT UNSIGNED NOT NULL DEFAULT 0,                            -- counts the runs; the fencing number
  lock_id             VARCHAR(191)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL DEFAULT NULL,  -- the lock file the owner holds
  host                VARCHAR(191)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL DEFAULT NULL,
  pid                 INT             NULL DEFAULT NULL,
  started_at          TIMESTAMP(6)    NULL DEFAULT NULL,
  previous_started_at TIMESTAMP(6)    NULL DEFAULT NULL,                             -- from these two comes "next cron expected"
  lease_until         TIMESTAMP(6)    NULL DEFAULT NULL,
  beat                BIGINT UNSIGNED NOT NULL DEFAULT 0,
  finished_at         TIMESTAMP(6)    NULL DEFAULT NULL,
  stopped             VARCHAR(64)     CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL,  -- why the last run ended: empty, max-time, sigterm, ...
  lock_held           BIGINT UNSIGNED NOT NULL DEFAULT 0,                            -- runs that found the lock held and left
  pruned_at           TIMESTAMP(6)    NULL DEFAULT NULL,
  PRIMARY KEY (scope)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- The history of the runs that had work; an empty minute leaves no row.
CREATE TABLE IF NOT EXISTS asyncsend_runs (
  id          BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  scope       VARCHAR(64)     CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  generation  BIGINT UNSIGNED NOT NULL,
  host        VARCHAR(191)    CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  pid         INT             NOT NULL,
  started_at  TIMESTAMP(6)    NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  finished_at TIMESTAMP(6)    NULL DEFAULT NULL,
  stopped     VARCHAR(64)     CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL,  -- died: it was killed and a later run closed it
  claimed     INT UNSIGNED    NOT NULL DEFAULT 0,
  done        INT UNSIGNED    NOT NULL DEFAULT 0,
  retried     INT UNSIGNED    NOT NULL DEFAULT 0,
  snoozed     INT UNSIGNED    NOT NULL DEFAULT 0,
  dead        INT UNSIGNED    NOT NULL DEFAULT 0,
  held        INT UNSIGNED    NOT NULL DEFAULT 0,
  cancelled   INT UNSIGNED    NOT NULL DEFAULT 0,
  released    INT UNSIGNED    NOT NULL DEFAULT 0,
  rescued     INT UNSIGNED    NOT NULL DEFAULT 0,
  replayed    INT UNSIGNED    NOT NULL DEFAULT 0,
  late        INT UNSIGNED    NOT NULL DEFAULT 0,                                    -- results refused because the claim was no longer ours
  PRIMARY KEY (id),
  UNIQUE KEY one_row_per_run (scope, generation),
  KEY runs_to_prune (started_at)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- A row here is the pause.
CREATE TABLE IF NOT EXISTS asyncsend_pauses (
  queue        VARCHAR(64)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  paused_at    TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  paused_until TIMESTAMP(6) NULL DEFAULT NULL,                                       -- NULL = until resumed
  PRIMARY KEY (queue)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- One row per applied migration; the highest is the version of these tables.
CREATE TABLE IF NOT EXISTS asyncsend_schema (
  version    INT          NOT NULL,
  applied_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  PRIMARY KEY (version)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

INSERT IGNORE INTO asyncsend_status (scope) VALUES ('default');

INSERT IGNORE INTO asyncsend_schema (version) VALUES (1);
