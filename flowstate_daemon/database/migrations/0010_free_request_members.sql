-- Whether an email was certainly not sent with a request: it may be put into another one, of a higher number. Such rows
-- were deleted before. Compatible with every older version: beside a newer one it takes them for requests of unknown
-- outcome, but only after Redis has lost writes.

ALTER TABLE flowstate_daemon.request_members ADD COLUMN free boolean NOT NULL DEFAULT false;
