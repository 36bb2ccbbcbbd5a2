-- What became of messages after their gateway took them, as it reports: one row per message, which never goes backwards (docs/sms.md).
CREATE TABLE IF NOT EXISTS asyncsend_receipts (
  id         INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  provider   TEXT    NOT NULL CHECK (length(provider) <= 16),  -- twilio, vonage, aliyun
  message    TEXT    NOT NULL CHECK (length(message) <= 64),  -- the provider's id
  job_key    TEXT    NOT NULL CHECK (length(job_key) <= 64),  -- idempotency key of the job that sent it
  status     TEXT    NOT NULL,  -- queued, sent, undelivered, failed, delivered
  step       INTEGER NOT NULL,  -- how far that is
  error      TEXT    NULL,  -- the provider's code
  changed_at TEXT    NOT NULL
);

CREATE UNIQUE INDEX IF NOT EXISTS asyncsend_receipts_message ON asyncsend_receipts (provider, message);
CREATE INDEX IF NOT EXISTS asyncsend_receipts_of_job ON asyncsend_receipts (job_key);
CREATE INDEX IF NOT EXISTS asyncsend_receipts_to_prune ON asyncsend_receipts (changed_at);

INSERT OR IGNORE INTO asyncsend_schema (version) VALUES (10);
