-- How the turns of a channel go that has a limit (docs/channels.md); its row is what two runs would wait for each other at.
CREATE TABLE IF NOT EXISTS asyncsend_quotas (
  channel  TEXT NOT NULL CHECK (typeof(channel) = 'text' AND length(channel) BETWEEN 1 AND 191),  -- email, sms, host:api.example.com, to:gmail.com
  paced    REAL NOT NULL DEFAULT 0,  -- when the next turn is by the even spread; seconds since 1970
  promised TEXT NULL DEFAULT NULL,  -- {queue: when the last of its waiting jobs may expect its turn}
  PRIMARY KEY (channel)
);

-- What went through a channel that has a limit, while any of its windows still counts it. Written before the effect.
CREATE TABLE IF NOT EXISTS asyncsend_sends (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  channel TEXT    NOT NULL CHECK (typeof(channel) = 'text' AND length(channel) BETWEEN 1 AND 191),
  job_id  INTEGER NOT NULL,
  sent_at TEXT    NULL DEFAULT NULL  -- not before its effect; NULL while it is under way
);
CREATE INDEX IF NOT EXISTS asyncsend_sends_sends_of_channel ON asyncsend_sends (channel, sent_at);
CREATE INDEX IF NOT EXISTS asyncsend_sends_sends_of_job ON asyncsend_sends (job_id, sent_at);

-- The jobs that failed lately in a channel: hosts count them, and stop all mail at a few.
ALTER TABLE asyncsend_channels ADD COLUMN failed_at TEXT NULL DEFAULT NULL;

-- When a batch may not be sent, and until when.
ALTER TABLE asyncsend_batches ADD COLUMN quiet TEXT NULL DEFAULT NULL;
ALTER TABLE asyncsend_batches ADD COLUMN deadline TEXT NULL DEFAULT NULL;

INSERT OR IGNORE INTO asyncsend_schema (version) VALUES (8);
