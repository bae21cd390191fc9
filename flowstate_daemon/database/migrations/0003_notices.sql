-- The calendar: one row for each slot, which is a mail of one kind to one person on one local date (or, with an item,
-- about one task), and one row for each time that a kind was planned in a zone.
-- Beside it may run: version 2 of this schema and everything older; those send mails of the calendar without asking.

CREATE TABLE flowstate_daemon.notices (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text        NOT NULL,
    user_id      text        NOT NULL,
    local_date   date        NOT NULL,
    item         text        NOT NULL DEFAULT '',
    zone         text        NOT NULL,
    due_at       timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL, -- too late from here on
    state        text        NOT NULL DEFAULT 'planned'
        CHECK (state IN ('planned', 'queued', 'sent', 'skipped', 'failed', 'expired')),
    reason       text,
    source       text        NOT NULL DEFAULT 'clock' CHECK (source IN ('clock', 'hand', 'forced')),
    job_id       text        NOT NULL,
    tries        integer     NOT NULL DEFAULT 0, -- how many jobs there were before this one, lost or forced
    planned_at   timestamptz NOT NULL,
    leased_until timestamptz, -- a feeder is at it
    queued_at    timestamptz,
    memory       text,        -- which memory of Redis the job was put into: another one knows nothing of it
    taken_at     timestamptz, -- since when a sender may send it
    ended_at     timestamptz,
    lost         boolean     NOT NULL DEFAULT false, -- nobody knows whether the mail left: never send it again
    UNIQUE (user_id, kind, local_date, item)
) WITH (fillfactor = 70); -- a row changes four times, mostly in columns without an index
CREATE UNIQUE INDEX notices_job_id ON flowstate_daemon.notices (job_id);
CREATE INDEX notices_planned ON flowstate_daemon.notices (kind, due_at, id) WHERE state = 'planned';
CREATE INDEX notices_queued ON flowstate_daemon.notices (queued_at) WHERE state = 'queued';
CREATE INDEX notices_due_at ON flowstate_daemon.notices USING brin (due_at);

CREATE TABLE flowstate_daemon.rounds (
    kind       text        NOT NULL,
    zone       text        NOT NULL,
    local_date date        NOT NULL,
    due_at     timestamptz NOT NULL,
    planned_at timestamptz NOT NULL,
    notices    integer     NOT NULL DEFAULT 0, -- how many slots it brought
    PRIMARY KEY (kind, zone, local_date)
);
