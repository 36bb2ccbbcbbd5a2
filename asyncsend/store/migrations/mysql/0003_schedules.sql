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

INSERT IGNORE INTO asyncsend_schema (version) VALUES (3);
