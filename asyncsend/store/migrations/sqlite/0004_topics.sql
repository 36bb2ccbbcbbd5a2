-- Who wants which events: publish makes one job for each subscription whose pattern fits (docs/topics.md).
CREATE TABLE IF NOT EXISTS asyncsend_subscriptions (
  name        TEXT NOT NULL CHECK (typeof(name) = 'text' AND length(name) BETWEEN 1 AND 24),  -- the uid of a job is <event>:<name>
  topic       TEXT NOT NULL CHECK (typeof(topic) = 'text' AND length(topic) BETWEEN 1 AND 128),  -- words and dots; * is one word, # any number of them
  task        TEXT NOT NULL CHECK (typeof(task) = 'text' AND length(task) BETWEEN 1 AND 128),  -- webhook: to the address below
  queue       TEXT NOT NULL DEFAULT 'default' CHECK (typeof(queue) = 'text' AND length(queue) <= 64),
  payload     TEXT NULL DEFAULT NULL,  -- a template; NULL = the event's data as it is
  url         TEXT NULL DEFAULT NULL CHECK (url IS NULL OR length(url) <= 2000),
  secrets     TEXT NULL DEFAULT NULL,  -- whsec_..., the newest first, separated by blanks
  disabled_at TEXT NULL DEFAULT NULL,  -- nothing is made for it; reason says why
  reason      TEXT NULL DEFAULT NULL,
  created_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  PRIMARY KEY (name)
);

-- Ways out that have trouble, such as host:api.example.com; one that works has no row.
CREATE TABLE IF NOT EXISTS asyncsend_channels (
  name          TEXT    NOT NULL CHECK (typeof(name) = 'text' AND length(name) BETWEEN 1 AND 191),
  failures      INTEGER NOT NULL DEFAULT 0,  -- in a row
  stops         INTEGER NOT NULL DEFAULT 0,  -- how often it was stopped for them, in a row
  stopped_until TEXT    NULL DEFAULT NULL,  -- NULL = not stopped; once it has passed, one job may try
  reason        TEXT    NULL DEFAULT NULL,
  changed_at    TEXT    NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  PRIMARY KEY (name)
);

INSERT OR IGNORE INTO asyncsend_schema (version) VALUES (4);
