-- Moves scheduled emails through their states: leased by an enqueuer, queued, claimed by a worker, ended by the ledger.
-- Used by scheduled_mails.py; the prune queries by ledger.py. Rows are locked in the order of their ids, so that two
-- daemons that change the same rows wait for each other instead of deadlocking.

-- name: lease_scheduled_mails
-- Lease the next due emails of one kind to one enqueuer. A lease that ends later than a lease given now would was given
-- by a clock that has been set back since, and is ignored.
-- $1 kind (text)
-- $2 now (timestamptz)
-- $3 end of the new lease (timestamptz)
-- $4 maximum number of rows (integer)
WITH next AS (
    SELECT id
    FROM flowstate_daemon.scheduled_mails
    WHERE state = 'planned' AND kind = $1::text AND due_at <= $2::timestamptz
        AND (leased_until IS NULL OR leased_until <= $2::timestamptz OR leased_until > $3::timestamptz)
    ORDER BY due_at, id
    LIMIT $4::integer
    FOR UPDATE SKIP LOCKED
)
UPDATE flowstate_daemon.scheduled_mails AS m
SET leased_until = $3::timestamptz
FROM next
WHERE m.id = next.id
RETURNING m.id, m.kind, m.user_id, m.local_date, m.task_id, m.zone, m.due_at, m.expires_at, m.job_id;

-- name: lock_leased_mails
-- Lock the rows that we still hold the lease of: until their jobs are in the queue no worker may claim them.
-- $1 ids (bigint[])
-- $2 end of our lease (timestamptz)
SELECT id
FROM flowstate_daemon.scheduled_mails
WHERE id = ANY ($1::bigint[]) AND state = 'planned' AND leased_until = $2::timestamptz
ORDER BY id
FOR UPDATE SKIP LOCKED;

-- name: mark_enqueued
-- Record that these have a job in the queue.
-- $1 ids (bigint[])
-- $2 now (timestamptz)
-- $3 epoch of the Redis that holds the jobs (text)
UPDATE flowstate_daemon.scheduled_mails
SET state = 'queued', queued_at = $2::timestamptz, redis_epoch = $3::text, leased_until = NULL
WHERE id = ANY ($1::bigint[]);

-- name: release_leases
-- Release leases, so that any enqueuer may lease these rows again.
-- $1 ids (bigint[])
-- $2 end of our lease (timestamptz)
UPDATE flowstate_daemon.scheduled_mails
SET leased_until = NULL
WHERE id = ANY ($1::bigint[]) AND state = 'planned' AND leased_until = $2::timestamptz;

-- name: next_due
-- The earliest due time among the planned emails of each kind; kinds without a planned email have no row.
-- $1 kinds (text[])
SELECT k.kind, m.due_at
FROM unnest($1::text[]) AS k (kind)
CROSS JOIN LATERAL (
    SELECT m.due_at
    FROM flowstate_daemon.scheduled_mails AS m
    WHERE m.state = 'planned' AND m.kind = k.kind
    ORDER BY m.due_at
    LIMIT 1
) AS m;

-- name: claim_for_sending
-- Claim these scheduled emails for sending. Granted to the current job of an email that has not ended and not expired;
-- a failed one may be retried.
-- $1 job ids (text[])
-- $2 now (timestamptz)
WITH claimable AS (
    SELECT id
    FROM flowstate_daemon.scheduled_mails
    WHERE job_id = ANY ($1::text[]) AND state IN ('planned', 'queued', 'failed') AND NOT outcome_unknown
        AND expires_at > $2::timestamptz
    ORDER BY id
    FOR UPDATE
), granted AS (
    UPDATE flowstate_daemon.scheduled_mails AS m
    SET state = 'queued', queued_at = coalesce(m.queued_at, $2::timestamptz), claimed_at = $2::timestamptz,
        leased_until = NULL, reason = NULL, ended_at = NULL
    FROM claimable
    WHERE m.id = claimable.id
    RETURNING m.job_id
)
SELECT m.job_id, m.state, m.outcome_unknown, m.expires_at, g.job_id IS NOT NULL AS granted
FROM flowstate_daemon.scheduled_mails AS m
LEFT JOIN granted AS g ON g.job_id = m.job_id
WHERE m.job_id = ANY ($1::text[]);

-- name: list_orphans
-- One page of queued emails whose job should have ended by now.
-- $1 queued before this (timestamptz)
-- $2 and, if claimed, claimed before this (timestamptz)
-- $3 id of the row before the page (bigint)
-- $4 maximum number of rows (integer)
SELECT
    id, kind, user_id, local_date, task_id, zone, due_at, expires_at, job_id, generation, redis_epoch, claimed_at
FROM flowstate_daemon.scheduled_mails
WHERE state = 'queued' AND queued_at < $1::timestamptz AND (claimed_at IS NULL OR claimed_at < $2::timestamptz)
    AND id > $3::bigint
ORDER BY id
LIMIT $4::integer;

-- name: reschedule
-- Plan emails again whose jobs are lost, and which no worker has claimed, or no request has contained since. Should an
-- old job turn up again, it gets no claim. The keys of emails in requests are <key of the queue><job id>:<timestamp>.
-- $1 ids (bigint[])
-- $2 job ids (text[])
-- $3 key of the queue (text)
WITH lost AS (
    SELECT m.id
    FROM flowstate_daemon.scheduled_mails AS m
    JOIN unnest($1::bigint[], $2::text[]) AS g (id, job_id) ON g.id = m.id AND g.job_id = m.job_id
    WHERE m.state = 'queued' AND (m.claimed_at IS NULL OR NOT EXISTS (
        SELECT FROM flowstate_daemon.request_members AS r
        WHERE r.mail > $3::text || m.job_id || ':' AND r.mail < $3::text || m.job_id || ';' AND NOT r.free
    ))
    ORDER BY m.id
    FOR UPDATE OF m
), rescheduled AS (
    UPDATE flowstate_daemon.scheduled_mails AS m
    SET state = 'planned', queued_at = NULL, claimed_at = NULL, redis_epoch = NULL, leased_until = NULL,
        generation = m.generation + 1,
        job_id = regexp_replace(m.job_id, '(scheduled\.[^.]+\.[^.]+\.[^.]+).*', '\1') || '.' || (m.generation + 1)
    FROM lost
    WHERE m.id = lost.id
    RETURNING m.id
)
SELECT id FROM rescheduled;

-- name: mark_unknown
-- Mark emails that may have been sent: they are never sent again. The ledger entry ends them afterwards.
-- $1 ids (bigint[])
-- $2 job ids (text[])
WITH lost AS (
    SELECT m.id
    FROM flowstate_daemon.scheduled_mails AS m
    JOIN unnest($1::bigint[], $2::text[]) AS g (id, job_id) ON g.id = m.id AND g.job_id = m.job_id
    WHERE m.state = 'queued'
    ORDER BY m.id
    FOR UPDATE OF m
)
UPDATE flowstate_daemon.scheduled_mails AS m
SET outcome_unknown = true
FROM lost
WHERE m.id = lost.id
RETURNING m.id;

-- name: list_fingerprints
-- Earlier lists of each user's scheduled emails of a kind, the newest first: what they contained, and whether sent.
-- $1 kind (text)
-- $2 user ids (text[])
-- $3 local dates, for each user the one that is being checked (date[])
-- $4 how many days to look back (integer)
SELECT w.user_id, w.local_date AS day, m.local_date, m.fingerprint, m.state IN ('planned', 'queued', 'sent') AS sent
FROM unnest($2::text[], $3::date[]) AS w (user_id, local_date)
JOIN flowstate_daemon.scheduled_mails AS m ON m.user_id = w.user_id AND m.kind = $1::text
    AND m.local_date < w.local_date AND m.local_date >= w.local_date - $4::integer
WHERE m.fingerprint IS NOT NULL
ORDER BY w.user_id, w.local_date, m.local_date DESC;

-- name: record_fingerprints
-- Record what the lists of these emails contain.
-- $1 ids (bigint[])
-- $2 fingerprints (text[])
UPDATE flowstate_daemon.scheduled_mails AS m
SET fingerprint = g.fingerprint
FROM unnest($1::bigint[], $2::text[]) AS g (id, fingerprint)
WHERE m.id = g.id;

-- name: prune_scheduled_mails
-- Delete one small batch of the oldest scheduled emails, if they are older than the limit.
-- $1 delete rows older than this (timestamptz)
-- $2 maximum number of rows (integer)
WITH oldest AS (
    SELECT id, due_at FROM flowstate_daemon.scheduled_mails ORDER BY id LIMIT $2::integer FOR UPDATE SKIP LOCKED
), deleted AS (
    DELETE FROM flowstate_daemon.scheduled_mails WHERE id IN (SELECT id FROM oldest WHERE due_at < $1::timestamptz)
    RETURNING 1
)
SELECT count(*) FROM deleted;

-- name: prune_runs
-- The same for schedule runs.
-- $1 delete rows older than this (timestamptz)
-- $2 maximum number of rows (integer)
WITH deleted AS (
    DELETE FROM flowstate_daemon.schedule_runs WHERE (kind, zone, local_date) IN (
        SELECT kind, zone, local_date FROM flowstate_daemon.schedule_runs WHERE due_at < $1::timestamptz
        ORDER BY due_at LIMIT $2::integer FOR UPDATE SKIP LOCKED
    ) RETURNING 1
)
SELECT count(*) FROM deleted;
