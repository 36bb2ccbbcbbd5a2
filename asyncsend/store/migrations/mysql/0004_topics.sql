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
  PRIMARY KEY (name)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

INSERT IGNORE INTO asyncsend_schema (version) VALUES (4);
