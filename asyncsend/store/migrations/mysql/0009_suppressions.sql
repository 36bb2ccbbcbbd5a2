-- Addresses that nothing more is sent to (docs/suppression.md). Capitals mean nothing in an address, here and for whoever looks.
CREATE TABLE IF NOT EXISTS asyncsend_suppressions (
  kind    VARCHAR(8)   CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'email',  -- email, sms
  address VARCHAR(254) CHARACTER SET ascii COLLATE ascii_general_ci NOT NULL,        -- its domain in ASCII; a number in E.164 form
  list    VARCHAR(64)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT '',    -- of which mailing list; '' = of all
  reason  VARCHAR(16)  CHARACTER SET ascii COLLATE ascii_bin NOT NULL DEFAULT 'manual',  -- hard, complaint, unsubscribed, manual
  source  VARCHAR(191) CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci NULL DEFAULT NULL,  -- who said so
  since   TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  PRIMARY KEY (kind, address, list, reason)
) ENGINE=InnoDB DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci;

INSERT IGNORE INTO asyncsend_schema (version) VALUES (9);
