-- The scheduler: one row for each scheduled email, which is one kind for one user on one local date (with a task id:
-- about one task), and one row for each run, which is one kind planned for one local date in one time zone.
-- Compatible with version 2 of this schema and everything older; those send scheduled emails without a claim.

CREATE TABLE flowstate_daemon.scheduled_mails (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind            text        NOT NULL,
    user_id         text        NOT NULL,
    local_date      date        NOT NULL,
    task_id         text        NOT NULL DEFAULT '', -- empty: about all tasks of the user
    zone            text        NOT NULL,
    due_at          timestamptz NOT NULL,
    expires_at      timestamptz NOT NULL, -- from here on it is too late to send
    state           text        NOT NULL DEFAULT 'planned'
        CHECK (state IN ('planned', 'queued', 'sent', 'skipped', 'failed', 'expired')),
    reason          text,
    source          text        NOT NULL DEFAULT 'clock' CHECK (source IN ('clock', 'manual', 'forced')),
    job_id          text        NOT NULL,
    generation      integer     NOT NULL DEFAULT 0, -- how many jobs came before this one: lost, or replaced by --force
    planned_at      timestamptz NOT NULL,
    leased_until    timestamptz, -- an enqueuer works on it until then
    queued_at       timestamptz,
    redis_epoch     text,        -- the Redis data set that got the job; another epoch has no trace of it
    claimed_at      timestamptz, -- when a worker last got permission to send it
    ended_at        timestamptz,
    outcome_unknown boolean     NOT NULL DEFAULT false, -- it may have been sent: never send it again
    UNIQUE (user_id, kind, local_date, task_id)
) WITH (fillfactor = 70); -- a row changes four times, mostly in columns without an index
CREATE UNIQUE INDEX scheduled_mails_job_id ON flowstate_daemon.scheduled_mails (job_id);
CREATE INDEX scheduled_mails_planned ON flowstate_daemon.scheduled_mails (kind, due_at, id) WHERE state = 'planned';
CREATE INDEX scheduled_mails_queued ON flowstate_daemon.scheduled_mails (queued_at) WHERE state = 'queued';
CREATE INDEX scheduled_mails_due_at ON flowstate_daemon.scheduled_mails USING brin (due_at);

CREATE TABLE flowstate_daemon.schedule_runs (
    kind       text        NOT NULL,
    zone       text        NOT NULL,
    local_date date        NOT NULL,
    due_at     timestamptz NOT NULL,
    planned_at timestamptz NOT NULL,
    scheduled  integer     NOT NULL DEFAULT 0, -- how many scheduled emails the run created
    PRIMARY KEY (kind, zone, local_date)
);
