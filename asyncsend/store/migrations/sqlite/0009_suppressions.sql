-- Addresses that nothing more is sent to (docs/suppression.md). Capitals mean nothing in an address, here and for whoever looks.
CREATE TABLE IF NOT EXISTS asyncsend_suppressions (
  kind    TEXT NOT NULL DEFAULT 'email' CHECK (length(kind) <= 8),  -- email, sms
  address TEXT NOT NULL COLLATE NOCASE CHECK (typeof(address) = 'text' AND length(address) BETWEEN 1 AND 254),  -- its domain in ASCII; a number in E.164 form
  list    TEXT NOT NULL DEFAULT '' CHECK (length(list) <= 64),  -- of which mailing list; '' = of all
  reason  TEXT NOT NULL DEFAULT 'manual' CHECK (length(reason) <= 16),  -- hard, complaint, unsubscribed, manual
  source  TEXT NULL DEFAULT NULL,  -- who said so
  since   TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
  PRIMARY KEY (kind, address, list, reason)
);

INSERT OR IGNORE INTO asyncsend_schema (version) VALUES (9);
