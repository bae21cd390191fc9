-- Addresses that get no email (bounced, complained, suppressed by an operator), and kinds that recipients have
-- unsubscribed from. Compatible with version 1 of this schema and everything older.

CREATE TABLE flowstate_daemon.suppressions (
    address text        NOT NULL,
    reason  text        NOT NULL CHECK (reason IN ('bounced', 'complained', 'manual')),
    since   timestamptz NOT NULL,
    note    text,
    PRIMARY KEY (address, reason)
);

CREATE TABLE flowstate_daemon.unsubscribes (
    address text        NOT NULL,
    kind    text        NOT NULL, -- a kind of email, or * for all kinds that can be unsubscribed from
    since   timestamptz NOT NULL,
    PRIMARY KEY (address, kind)
);
