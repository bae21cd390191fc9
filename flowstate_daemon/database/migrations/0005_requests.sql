-- Which requests to the provider have contained which emails, written before the first try of each request. Redis has
-- the same and more, but may lose its newest writes in a failover or a power cut; then these rows show what was sent.
-- Rows are kept for a day. Compatible with every older version: none of them uses these tables, and what they send is
-- not protected against such a loss.

CREATE TABLE flowstate_daemon.requests (
    id       uuid        PRIMARY KEY, -- of the stored request in Redis
    key      text        NOT NULL,    -- the idempotency key
    saved_at timestamptz NOT NULL
);
CREATE INDEX requests_saved_at ON flowstate_daemon.requests (saved_at);

CREATE TABLE flowstate_daemon.request_members (
    mail     text COLLATE "C" NOT NULL, -- as in `mails`
    number   integer          NOT NULL, -- the first request with this email is 1; the job in Redis has the same count
    request  uuid             NOT NULL,
    saved_at timestamptz      NOT NULL,
    PRIMARY KEY (mail, number)
);
CREATE INDEX request_members_saved_at ON flowstate_daemon.request_members USING brin (saved_at);
