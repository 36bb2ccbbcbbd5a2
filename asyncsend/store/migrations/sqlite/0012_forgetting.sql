-- What no window counts any more is found by its time, and so is what a dead run left open (docs/channels.md).
CREATE INDEX IF NOT EXISTS asyncsend_sends_sends_in_time ON asyncsend_sends (sent_at);

-- How long a turn in this channel counts, by the limits that the last run went by; until a run has said so, as long as a limit may be.
ALTER TABLE asyncsend_quotas ADD COLUMN longest REAL NOT NULL DEFAULT 2678400;
CREATE INDEX IF NOT EXISTS asyncsend_quotas_quotas_longest ON asyncsend_quotas (longest);
CREATE INDEX IF NOT EXISTS asyncsend_quotas_quotas_paced ON asyncsend_quotas (paced);

-- When a policy last refused a job: those that it refuses while others pass do not stop the channel again.
ALTER TABLE asyncsend_channels ADD COLUMN refused_at TEXT NULL DEFAULT NULL;

INSERT OR IGNORE INTO asyncsend_schema (version) VALUES (12);
