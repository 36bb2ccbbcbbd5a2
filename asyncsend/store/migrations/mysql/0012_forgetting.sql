-- What no window counts any more is found by its time, and so is what a dead run left open (docs/channels.md).
ALTER TABLE asyncsend_sends ADD KEY sends_in_time (sent_at);

-- How long a turn in this channel counts, by the limits that the last run went by; until a run has said so, as long as a limit may be.
ALTER TABLE asyncsend_quotas
  ADD COLUMN longest DOUBLE NOT NULL DEFAULT 2678400,
  ADD KEY quotas_longest (longest),
  ADD KEY quotas_paced (paced);

-- When a policy last refused a job: those that it refuses while others pass do not stop the channel again.
ALTER TABLE asyncsend_channels ADD COLUMN refused_at TIMESTAMP(6) NULL DEFAULT NULL;

INSERT IGNORE INTO asyncsend_schema (version) VALUES (12);
