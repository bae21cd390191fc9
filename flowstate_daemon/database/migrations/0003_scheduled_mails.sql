-- The calendar: one row for each slot, which is a mail of one kind to one person on one local date (or, with an task_id,
-- about one task), and one row for each time that a kind was planned in a zone.
-- Beside it may run: version 2 of this schema and everything older; those send mails of the calendar without asking.

CREATE TABLE flowstate_daemon.scheduled_mails (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text        NOT NULL,
    user_id      text        NOT NULL,
    local_date   date        NOT NULL,
    task_id         text        NOT NULL DEFAULT '',
    zone         text        NOT NULL,
    due_at       timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL, -- too late from here on
    state        text        NOT NULL DEFAULT 'planned'
        CHECK (state IN ('planned', 'queued', 'sent', 'skipped', 'failed', 'expired')),
    reason       text,
    source       text        NOT NULL DEFAULT 'clock' CHECK (source IN ('clock', 'manual', 'forced')),
    job_id       text        NOT NULL,
    generation        integer     NOT NULL DEFAULT 0, -- how many jobs there were before this one, outcome_unknown or forced
    planned_at   timestamptz NOT NULL,
    leased_until timestamptz, -- a feeder is at it
    queued_at    timestamptz,
    redis_epoch       text,        -- which redis_epoch of Redis the job was put into: another one knows nothing of it
    claimed_at     timestamptz, -- since when a sender may send it
    ended_at     timestamptz,
    outcome_unknown         boolean     NOT NULL DEFAULT false, -- nobody knows whether the mail left: never send it again
    UNIQUE (user_id, kind, local_date, task_id)
) WITH (fillfactor = 70); -- a row changes four times, mostly in columns without an index
CREATE UNIQUE INDEX notices_job_id ON flowstate_daemon.scheduled_mails (job_id);
CREATE INDEX notices_planned ON flowstate_daemon.scheduled_mails (kind, due_at, id) WHERE state = 'planned';
CREATE INDEX notices_queued ON flowstate_daemon.scheduled_mails (queued_at) WHERE state = 'queued';
CREATE INDEX notices_due_at ON flowstate_daemon.scheduled_mails USING brin (due_at);

CREATE TABLE flowstate_daemon.schedule_runs (
    kind       text        NOT NULL,
    zone       text        NOT NULL,
    local_date date        NOT NULL,
    due_at     timestamptz NOT NULL,
    planned_at timestamptz NOT NULL,
    scheduled_mails    integer     NOT NULL DEFAULT 0, -- how many slots it brought
    PRIMARY KEY (kind, zone, local_date)
);
