-- Whether another process than the one that made a request may have sent it. Until then the one that made it can still
-- withdraw it. Compatible with every older version, whose requests are taken for not resumed.

ALTER TABLE flowstate_daemon.requests ADD COLUMN resumed boolean NOT NULL DEFAULT false;
