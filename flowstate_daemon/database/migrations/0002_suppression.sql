-- Who gets no mail: addresses that do not work or do not want any, and kinds that people have unsubscribed from.
-- Beside it may run: version 1 of this schema and everything older.

CREATE TABLE flowstate_daemon.suppressions (
    address text        NOT NULL,
    reason  text        NOT NULL CHECK (reason IN ('bounced', 'complained', 'manual')),
    since   timestamptz NOT NULL,
    note    text,
    PRIMARY KEY (address, reason)
);

CREATE TABLE flowstate_daemon.unsubscribes (
    address text        NOT NULL,
    kind    text        NOT NULL, -- a kind of mail, or * for all that can be unsubscribed from
    since   timestamptz NOT NULL,
    PRIMARY KEY (address, kind)
);
