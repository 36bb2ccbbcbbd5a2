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

INSERT IGNORE INTO asyncsend_schema (version) VALUES (10);
