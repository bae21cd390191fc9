-- The ledger: the outcome of each attempt of each email, and the events that the provider reported later.
-- Compatible with every older version: none of them uses these tables.

CREATE TABLE flowstate_daemon.mails (
    key         text        NOT NULL,
    outcome     text        NOT NULL,
    mail        text        NOT NULL, -- the key without the attempt: the same for all attempts of one email
    at          timestamptz NOT NULL,
    address     text        NOT NULL, -- normalised, as in all tables of this schema; empty when the job had none
    kind        text        NOT NULL,
    job_id      text        NOT NULL,
    attempt     integer     NOT NULL,
    provider_id text,
    reason      text,
    decisions   jsonb       NOT NULL,
    PRIMARY KEY (key, outcome),
    CHECK (at BETWEEN '1970-01-01Z' AND '9999-12-31Z')
);
CREATE INDEX mails_address_at ON flowstate_daemon.mails (address, at DESC);
CREATE INDEX mails_at ON flowstate_daemon.mails (at);
CREATE INDEX mails_provider_id ON flowstate_daemon.mails (provider_id) WHERE provider_id IS NOT NULL;

-- Events can arrive before the row of their email, twice, and in any order: no foreign key refers to `mails`.
CREATE TABLE flowstate_daemon.provider_events (
    svix_id     text        PRIMARY KEY,
    provider_id text        NOT NULL,
    type        text        NOT NULL,
    at          timestamptz NOT NULL,
    address     text        NOT NULL,
    reason      text,
    CHECK (at BETWEEN '1970-01-01Z' AND '9999-12-31Z')
);
CREATE INDEX provider_events_provider_id ON flowstate_daemon.provider_events (provider_id, at);
CREATE INDEX provider_events_at ON flowstate_daemon.provider_events (at);

-- The delivery state of each email, computed from its events and so independent of their order. Problems are kept apart
-- as flags: an email that was delivered and then reported as spam is both.
CREATE VIEW flowstate_daemon.mail_status AS
SELECT
    e.provider_id,
    (array_agg(e.type ORDER BY s.rank DESC, e.at DESC, e.svix_id) FILTER (WHERE s.rank > 0))[1] AS state,
    coalesce(array_agg(DISTINCT e.type) FILTER (WHERE s.rank = 0), '{}') AS flags
FROM flowstate_daemon.provider_events AS e
LEFT JOIN (
    VALUES ('sent', 1), ('delivery_delayed', 2), ('delivered', 3), ('opened', 4), ('clicked', 4),
           ('bounced', 0), ('complained', 0), ('failed', 0), ('suppressed', 0)
) AS s (type, rank) ON s.type = e.type
GROUP BY e.provider_id;

-- Journal entries that cannot be parsed or stored, kept for inspection.
CREATE TABLE flowstate_daemon.journal_rejects (
    digest bytea       PRIMARY KEY,
    raw    bytea       NOT NULL,
    reason text        NOT NULL,
    at     timestamptz NOT NULL
);
CREATE INDEX journal_rejects_at ON flowstate_daemon.journal_rejects (at);
