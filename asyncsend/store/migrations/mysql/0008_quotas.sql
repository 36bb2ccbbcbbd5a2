-- How the turns of a channel go that has a limit (docs/channels.md); its row is what two runs would wait for each other at.
CREATE TABLE IF NOT EXISTS asyncsend_quotas (
  channel  VARCHAR(191) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,                -- email, sms, host:api.example.com, to:gmail.com
  paced    DOUBLE       NOT NULL DEFAULT 0,                                           -- when the next turn is by the even spread; seconds since 1970
  promised TEXT         CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NULL,               -- {queue: when the last of its waiting jobs may expect its turn}
  PRIMARY KEY (channel)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- What went through a channel that has a limit, while any of its windows still counts it. Written before the effect.
CREATE TABLE IF NOT EXISTS asyncsend_sends (
  id      BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
  channel VARCHAR(191) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,
  job_id  BIGINT UNSIGNED NOT NULL,
  sent_at TIMESTAMP(6) NULL DEFAULT NULL,                                             -- not before its effect; NULL while it is under way
  PRIMARY KEY (id),
  KEY sends_of_channel (channel, sent_at),
  KEY sends_of_job (job_id, sent_at)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

-- The jobs that failed lately in a channel: hosts count them, and stop all mail at a few.
ALTER TABLE asyncsend_channels ADD COLUMN failed_at VARCHAR(1000) CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL;

-- When a batch may not be sent, and until when.
ALTER TABLE asyncsend_batches ADD COLUMN quiet VARCHAR(11) CHARACTER SET ascii COLLATE ascii_bin NULL DEFAULT NULL;
ALTER TABLE asyncsend_batches ADD COLUMN deadline TIMESTAMP(6) NULL DEFAULT NULL;

INSERT IGNORE INTO asyncsend_schema (version) VALUES (8);
