-- Operators look for what was not sent, which is a small part of the ledger: this index finds it at any size.
-- Compatible with every older version: they do not need the index.

CREATE INDEX mails_unsent_at ON flowstate_daemon.mails (at) WHERE outcome <> 'sent';
