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

INSERT IGNORE INTO asyncsend_alerts (cause) VALUES ('looked');

-- When the last runs started, the newest first, seconds since 1970: from these comes "next run expected".
ALTER TABLE asyncsend_status ADD COLUMN ticks VARCHAR(191) CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL;

-- How much of its time a run spent on executing jobs.
ALTER TABLE asyncsend_runs ADD COLUMN workers SMALLINT UNSIGNED NOT NULL DEFAULT 1;
ALTER TABLE asyncsend_runs ADD COLUMN worked DOUBLE NOT NULL DEFAULT 0;

INSERT IGNORE INTO asyncsend_schema (version) VALUES (7);
