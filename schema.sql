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
  order_key       VARBINARY(191)    NULL DEFAULT NULL,                               -- the producer's: jobs of one key go one after the other, by id
  concurrency_key VARBINARY(191)    NULL DEFAULT NULL,                               -- the producer's: at most so many of one key at a time (ASYNCSEND_CONCURRENCY)
  lane            VARBINARY(192)    NOT NULL DEFAULT '',                             -- set by a run: where it stands aside until the jobs of its key let it go
  PRIMARY KEY (id),
  UNIQUE KEY one_job_per_uid (uid),
  UNIQUE KEY one_unfinished_job_per_key (unique_key, unique_slot),
  KEY jobs_to_prune (finished_at),
  KEY jobs_of_batch (batch_id, unique_slot),                                         -- what is left of a batch, in one short range
  KEY jobs_in_order (unique_slot, order_key, id),
  KEY jobs_to_claim (state, queue, lane, priority, run_at, id)
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
  previous_started_at TIMESTAMP(6)    NULL DEFAULT NULL,                             -- what counts as one interval of cron until there are more
  lease_until         TIMESTAMP(6)    NULL DEFAULT NULL,
  beat                BIGINT UNSIGNED NOT NULL DEFAULT 0,
  finished_at         TIMESTAMP(6)    NULL DEFAULT NULL,
  stopped             VARCHAR(64)     CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL,  -- why the last run ended: empty, max-time, sigterm, ...
  lock_held           BIGINT UNSIGNED NOT NULL DEFAULT 0,                            -- runs that found the lock held and left
  pruned_at           TIMESTAMP(6)    NULL DEFAULT NULL,
  aside               TINYINT         NOT NULL DEFAULT 0,                            -- 1: jobs may stand in a lane
  prune_error         VARCHAR(500)    CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NULL DEFAULT NULL,  -- why the last pruning stopped; NULL: it did not
  ticks               VARCHAR(191)    CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL,  -- when the last runs started, the newest first: from these comes "next run expected"
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
  workers     SMALLINT UNSIGNED NOT NULL DEFAULT 1,
  worked      DOUBLE          NOT NULL DEFAULT 0,                                    -- seconds of execution, of all workers
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
  quiet            VARCHAR(11)  CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL,  -- 22:00-08:00: when it is not sent
  deadline         TIMESTAMP(6) NULL DEFAULT NULL,                                    -- what has not started by then is cancelled
  push             VARCHAR(191) CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL,  -- the channel of Pusher that hears how far it is
  pushed_at        TIMESTAMP(6) NULL DEFAULT NULL,
  PRIMARY KEY (uid),
  KEY batches_open (finished_at)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- What recurs: each run makes one job for each due time, and moves next_at in the same transaction (docs/schedules.md).
CREATE TABLE IF NOT EXISTS asyncsend_schedules (
  name       VARCHAR(38)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,            -- with it the uid of a job, schedule-<name>-<due time>, has 64 characters
  cron       VARCHAR(191) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,            -- five fields
  tz         VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'UTC',
  task       VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  payload    TEXT         CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  queue      VARCHAR(64)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT 'default',
  priority   SMALLINT     NOT NULL DEFAULT 0,
  catch_up   ENUM('one','all','none') NOT NULL DEFAULT 'one',                        -- what becomes of missed times
  paused     TINYINT      NOT NULL DEFAULT 0,
  next_at    TIMESTAMP(6) NULL DEFAULT NULL,                                         -- NULL = makes nothing more; reason says why
  last_at    TIMESTAMP(6) NULL DEFAULT NULL,                                         -- the newest due time that became a job
  created_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  reason     VARCHAR(255) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NULL DEFAULT NULL,
  PRIMARY KEY (name),
  KEY schedules_due (paused, next_at)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- Who wants which events: publish makes one job for each subscription whose pattern fits (docs/topics.md).
CREATE TABLE IF NOT EXISTS asyncsend_subscriptions (
  name        VARCHAR(24)   CHARACTER SET ascii COLLATE ascii_bin NOT NULL,           -- the uid of a job is <event>:<name>
  topic       VARCHAR(128)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,           -- words and dots; * is one word, # any number of them
  task        VARCHAR(128)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,       -- webhook: to the address below
  queue       VARCHAR(64)   CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL DEFAULT 'default',
  payload     TEXT          CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,           -- a template; NULL = the event's data as it is
  url         VARCHAR(2000) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL DEFAULT NULL,
  secrets     TEXT          CHARACTER SET ascii COLLATE ascii_bin NULL,               -- whsec_..., the newest first, separated by blanks
  disabled_at TIMESTAMP(6)  NULL DEFAULT NULL,                                        -- nothing is made for it; reason says why
  reason      VARCHAR(255)  CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NULL DEFAULT NULL,
  created_at  TIMESTAMP(6)  NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  PRIMARY KEY (name)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- Ways out that have trouble, such as host:api.example.com; one that works has no row.
CREATE TABLE IF NOT EXISTS asyncsend_channels (
  name          VARCHAR(191) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  failures      INT UNSIGNED NOT NULL DEFAULT 0,                                      -- in a row
  stops         INT UNSIGNED NOT NULL DEFAULT 0,                                      -- how often it was stopped for them, in a row
  stopped_until TIMESTAMP(6) NULL DEFAULT NULL,                                       -- NULL = not stopped; once it has passed, one job may try
  reason        VARCHAR(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NULL DEFAULT NULL,
  changed_at    TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  failed_at     VARCHAR(1000) CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL,  -- when jobs failed lately: hosts count that, and stop all mail at a few
  refused_at    TIMESTAMP(6) NULL DEFAULT NULL,                                       -- when a policy last refused a job
  PRIMARY KEY (name)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

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

-- What runs have settled, per queue and task: a row per hour, per day, and one that is never deleted. Written in the transaction of what it counts.
CREATE TABLE IF NOT EXISTS asyncsend_counters (
  span      ENUM('hour','day','ever') NOT NULL,
  began     TIMESTAMP    NOT NULL DEFAULT CURRENT_TIMESTAMP,                         -- when the hour or the day (UTC) began; 1970-01-02 for ever
  queue     VARCHAR(64)  CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,
  task      VARCHAR(128) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL,         -- other, once there are too many of them
  done      BIGINT UNSIGNED NOT NULL DEFAULT 0,
  retried   BIGINT UNSIGNED NOT NULL DEFAULT 0,
  snoozed   BIGINT UNSIGNED NOT NULL DEFAULT 0,
  dead      BIGINT UNSIGNED NOT NULL DEFAULT 0,
  held      BIGINT UNSIGNED NOT NULL DEFAULT 0,
  cancelled BIGINT UNSIGNED NOT NULL DEFAULT 0,
  released  BIGINT UNSIGNED NOT NULL DEFAULT 0,
  late      BIGINT UNSIGNED NOT NULL DEFAULT 0,
  seconds   DOUBLE       NOT NULL DEFAULT 0,                                         -- of execution
  h0        BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- executions that took at most 1 ms, and longer than the column before
  h1        BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 2 ms
  h2        BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 4 ms
  h3        BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 8 ms
  h4        BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 16 ms
  h5        BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 32 ms
  h6        BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 64 ms
  h7        BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 128 ms
  h8        BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 256 ms
  h9        BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 512 ms
  h10       BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 1 s
  h11       BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 2 s
  h12       BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 4 s
  h13       BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 8 s
  h14       BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 16 s
  h15       BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 33 s
  h16       BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 66 s
  h17       BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 131 s
  h18       BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 262 s
  h19       BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- at most 524 s
  h20       BIGINT UNSIGNED NOT NULL DEFAULT 0,                                      -- longer
  PRIMARY KEY (span, began, queue, task)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- What a person was told, or will be: one row per cause, and one (looked) that says when a run looked last.
CREATE TABLE IF NOT EXISTS asyncsend_alerts (
  cause   VARCHAR(96)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,               -- dead, lag, silence, waiting:smtp-login, ...
  since   TIMESTAMP(6) NULL DEFAULT NULL,
  sent_at TIMESTAMP(6) NULL DEFAULT NULL,                                            -- the last message about it; not again for six hours
  over_at TIMESTAMP(6) NULL DEFAULT NULL,                                            -- NULL while it lasts
  times   BIGINT UNSIGNED NOT NULL DEFAULT 0,                                        -- messages about it; of looked: looks
  said    TEXT         CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NULL,
  PRIMARY KEY (cause)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- How the turns of a channel go that has a limit (docs/channels.md); its row is what two runs would wait for each other at.
CREATE TABLE IF NOT EXISTS asyncsend_quotas (
  channel  VARCHAR(191) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,                -- email, sms, host:api.example.com, to:gmail.com
  paced    DOUBLE       NOT NULL DEFAULT 0,                                           -- when the next turn is by the even spread; seconds since 1970
  promised TEXT         CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,               -- {queue: when the last of its waiting jobs may expect its turn}
  longest  DOUBLE       NOT NULL DEFAULT 2678400,                                     -- seconds for which a turn counts, by its limits
  PRIMARY KEY (channel),
  KEY quotas_longest (longest),
  KEY quotas_paced (paced)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- What went through a channel that has a limit, while any of its windows still counts it. Written before the effect.
CREATE TABLE IF NOT EXISTS asyncsend_sends (
  id      BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  channel VARCHAR(191) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  job_id  BIGINT UNSIGNED NOT NULL,
  sent_at TIMESTAMP(6) NULL DEFAULT NULL,                                             -- not before its effect; NULL while it is under way
  PRIMARY KEY (id),
  KEY sends_of_channel (channel, sent_at),
  KEY sends_of_job (job_id, sent_at),
  KEY sends_in_time (sent_at)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- What became of messages after their gateway took them, as it reports: one row per message, which never goes backwards (docs/sms.md).
CREATE TABLE IF NOT EXISTS asyncsend_receipts (
  id         BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  provider   VARCHAR(16)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,            -- twilio, vonage, aliyun
  message    VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,            -- the provider's id
  job_key    VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,            -- idempotency key of the job that sent it
  status     VARCHAR(16)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL,            -- queued, sent, undelivered, failed, delivered
  step       TINYINT UNSIGNED NOT NULL,                                              -- how far that is
  error      VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL,   -- the provider's code
  changed_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  PRIMARY KEY (id),
  UNIQUE KEY receipts_message (provider, message),
  KEY receipts_of_job (job_key),
  KEY receipts_to_prune (changed_at)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- Addresses that nothing more is sent to (docs/suppression.md). Capitals mean nothing in an address, here and for whoever looks.
CREATE TABLE IF NOT EXISTS asyncsend_suppressions (
  kind    VARCHAR(8)   CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'email',  -- email, sms
  address VARCHAR(254) CHARACTER SET ascii COLLATE ascii_general_ci NOT NULL,        -- its domain in ASCII; a number in E.164 form
  list    VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',    -- of which mailing list; '' = of all
  reason  VARCHAR(16)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'manual',  -- hard, complaint, unsubscribed, manual
  source  VARCHAR(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NULL DEFAULT NULL,  -- who said so
  since   TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  PRIMARY KEY (kind, address, list, reason)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- One row per applied migration; the highest is the version of these tables.
CREATE TABLE IF NOT EXISTS asyncsend_schema (
  version    INT          NOT NULL,
  applied_at TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  PRIMARY KEY (version)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

INSERT IGNORE INTO asyncsend_status (scope) VALUES ('default');

INSERT IGNORE INTO asyncsend_alerts (cause) VALUES ('looked');

INSERT IGNORE INTO asyncsend_schema (version) VALUES (1), (2), (3), (4), (5), (6), (7), (8), (9), (10), (11), (12);
