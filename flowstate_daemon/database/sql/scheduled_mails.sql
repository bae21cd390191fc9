-- The calendar's slots: planned, leased by a feeder, handed over to the queue, taken by a sender, ended by the ledger.
-- Read by planning.py and scheduled_mails.py; {app} is the application's schema, {candidates} one of the queries find_….
--
-- Rows are written in the order of people or ids: two daemons that write the same ones wait for each other instead of
-- blocking each other.

-- name: list_zones
-- Where people live, as far as the zone exists.
-- $1 all zones that there are (text[])
SELECT DISTINCT u.preferences ->> 'timezone' AS zone
FROM {app}.users AS u
WHERE u.preferences ->> 'timezone' = ANY ($1::text[]);

-- name: list_last_runs
-- When each kind was last planned in each zone; what a wrong clock has planned ahead of now does not count.
-- $1 now (timestamptz)
SELECT kind, zone, max(due_at) AS due_at
FROM flowstate_daemon.schedule_runs
WHERE due_at <= $1::timestamptz
GROUP BY kind, zone;

-- name: insert_runs
-- Take these schedule_runs. Whoever comes second waits for the end of the first and gets what that one has left.
-- $1 kind (text)
-- $2 zones (text[])
-- $3 local dates (date[])
-- $4 when they are due (timestamptz[])
-- $5 now (timestamptz)
INSERT INTO flowstate_daemon.schedule_runs (kind, zone, local_date, due_at, planned_at)
SELECT $1::text, o.zone, o.local_date, o.due_at, $5::timestamptz
FROM unnest($2::text[], $3::date[], $4::timestamptz[]) AS o (zone, local_date, due_at)
ORDER BY o.zone, o.local_date
ON CONFLICT (kind, zone, local_date) DO NOTHING
RETURNING zone, local_date;

-- name: find_task_reminder_recipients
-- People with open tasks that are due inside the occasion's window.
-- $1 where the last window ends (timestamptz)
-- $2 where the first one begins (timestamptz)
SELECT o.number, t.user_id, CASE WHEN h.per_task THEN t.id ELSE '' END AS task_id, count(*) AS found
FROM (
    SELECT t.id, u.id AS user_id, u.preferences ->> 'timezone' AS zone, t."dueDate" AS due_at
    FROM {app}.tasks AS t
    JOIN {app}.users AS u ON u.id = t."userId"
    WHERE NOT t."isCompleted" AND t."deletedAt" IS NULL
        AND t."dueDate" < $1::timestamptz AT TIME ZONE 'UTC' AND t."dueDate" >= $2::timestamptz AT TIME ZONE 'UTC'
    OFFSET 0 -- what is asked below would make Postgres expect a tenth of these, and look people up one by one
) AS t
CROSS JOIN house AS h
LEFT JOIN known AS k ON k.name = t.zone
JOIN occasions AS o ON o.zone = coalesce(k.name, h.home) AND t.due_at >= o.begins_at AND t.due_at < o.ends_at
GROUP BY 1, 2, 3

-- name: find_overdue_summary_recipients
-- People with open tasks that were due before the end of the occasion's window.
-- $1 where the last window ends (timestamptz)
SELECT o.number, u.id AS user_id, '' AS task_id, count(*) AS found
FROM (
    SELECT t."userId" AS user_id, min(t."dueDate") AS oldest
    FROM {app}.tasks AS t
    WHERE NOT t."isCompleted" AND t."deletedAt" IS NULL AND t."dueDate" < $1::timestamptz AT TIME ZONE 'UTC'
    GROUP BY t."userId"
) AS late
JOIN {app}.users AS u ON u.id = late.user_id
LEFT JOIN known AS k ON k.name = u.preferences ->> 'timezone'
JOIN occasions AS o ON o.zone = coalesce(k.name, (SELECT home FROM house)) AND late.oldest < o.ends_at
GROUP BY 1, 2, 3

-- name: find_focus_report_recipients
-- People with sessions that began inside the occasion's window.
-- $1 where the last window ends (timestamptz)
-- $2 where the first one begins (timestamptz)
SELECT o.number, s.user_id, '' AS task_id, count(*) AS found
FROM (
    SELECT u.id AS user_id, u.preferences ->> 'timezone' AS zone, s."startTime" AS began_at
    FROM {app}.focus_sessions AS s
    JOIN {app}.users AS u ON u.id = s."userId"
    WHERE s."startTime" < $1::timestamptz AT TIME ZONE 'UTC' AND s."startTime" >= $2::timestamptz AT TIME ZONE 'UTC'
    OFFSET 0 -- as above
) AS s
CROSS JOIN house AS h
LEFT JOIN known AS k ON k.name = s.zone
JOIN occasions AS o ON o.zone = coalesce(k.name, h.home) AND s.began_at >= o.begins_at AND s.began_at < o.ends_at
GROUP BY 1, 2, 3

-- name: insert_scheduled_mails
-- One slot for each candidate that has none on that local date. Returns what was found, for how many, and how many
-- slots are new.
-- $1 where the last of the windows ends (timestamptz)
-- $2 where the first of them begins (timestamptz)
-- $3 kind (text)
-- $4 zones of the occasions (text[])
-- $5 local dates (date[])
-- $6 when they are due (timestamptz[])
-- $7 when they are too late (timestamptz[])
-- $8 where their windows begin (timestamptz[])
-- $9 where their windows end (timestamptz[])
-- $10 all zones that there are (text[])
-- $11 the zone of people who have named none of them (text)
-- $12 one slot for each task (boolean)
-- $13 source (text)
-- $14 now (timestamptz)
WITH occasions AS MATERIALIZED (
    SELECT
        o.number, o.zone, o.local_date, o.due_at, o.expires_at,
        o.begins_at AT TIME ZONE 'UTC' AS begins_at, o.ends_at AT TIME ZONE 'UTC' AS ends_at
    FROM unnest($4::text[], $5::date[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[], $9::timestamptz[])
        WITH ORDINALITY AS o (zone, local_date, due_at, expires_at, begins_at, ends_at, number)
    WHERE o.ends_at <= $1::timestamptz AND o.begins_at >= $2::timestamptz
), known AS MATERIALIZED (
    SELECT name FROM unnest($10::text[]) AS k (name)
), house AS MATERIALIZED (
    SELECT $11::text AS home, $12::boolean AS per_task
), candidates AS MATERIALIZED (
{candidates}
), planned AS (
    INSERT INTO flowstate_daemon.scheduled_mails
        (kind, user_id, local_date, task_id, zone, due_at, expires_at, source, job_id, planned_at)
    SELECT
        $3::text, c.user_id, o.local_date, c.task_id, o.zone, o.due_at, o.expires_at, $13::text,
        concat_ws('.', 'notice', $3::text, to_char(o.local_date, 'YYYYMMDD'), md5(ROW(c.user_id, c.task_id)::text)),
        $14::timestamptz
    FROM candidates AS c
    JOIN occasions AS o ON o.number = c.number
    ORDER BY c.user_id, o.local_date, c.task_id
    ON CONFLICT (user_id, kind, local_date, task_id) DO NOTHING
    RETURNING zone, local_date
), counted AS (
    UPDATE flowstate_daemon.schedule_runs AS r
    SET scheduled_mails = p.scheduled_mails
    FROM (SELECT zone, local_date, count(*) AS scheduled_mails FROM planned GROUP BY zone, local_date) AS p
    WHERE r.kind = $3::text AND r.zone = p.zone AND r.local_date = p.local_date AND $13::text = 'clock'
)
SELECT
    (SELECT coalesce(sum(found), 0)::bigint FROM candidates) AS found,
    (SELECT count(DISTINCT user_id) FROM candidates) AS people,
    (SELECT count(*) FROM planned) AS planned;

-- name: list_recipients
-- The same candidates, to be looked at: one page, in the order of people.
-- $1 where the last of the windows ends (timestamptz)
-- $2 where the first of them begins (timestamptz)
-- $3 zones of the occasions (text[])
-- $4 where their windows begin (timestamptz[])
-- $5 where their windows end (timestamptz[])
-- $6 all zones that there are (text[])
-- $7 the zone of people who have named none of them (text)
-- $8 one slot for each task (boolean)
-- $9 the person after whom the page begins, or '' (text)
-- $10 their task_id (text)
-- $11 how many at most (integer)
WITH occasions AS MATERIALIZED (
    SELECT
        o.number, o.zone,
        o.begins_at AT TIME ZONE 'UTC' AS begins_at, o.ends_at AT TIME ZONE 'UTC' AS ends_at
    FROM unnest($3::text[], $4::timestamptz[], $5::timestamptz[])
        WITH ORDINALITY AS o (zone, begins_at, ends_at, number)
    WHERE o.ends_at <= $1::timestamptz AND o.begins_at >= $2::timestamptz
), known AS MATERIALIZED (
    SELECT name FROM unnest($6::text[]) AS k (name)
), house AS MATERIALIZED (
    SELECT $7::text AS home, $8::boolean AS per_task
)
SELECT c.number, c.user_id, c.task_id
FROM (
{candidates}
) AS c
WHERE (c.user_id, c.task_id) > ($9::text, $10::text)
ORDER BY c.user_id, c.task_id
LIMIT $11::integer;

-- name: reopen_scheduled_mails
-- Open slots again that have ended, for the candidates of a run that is forced: each with a job of its own.
-- $1 kind (text)
-- $2 people (text[])
-- $3 items (text[])
-- $4 local dates (date[])
-- $5 when they are due (timestamptz)
-- $6 when they are too late (timestamptz)
-- $7 now (timestamptz)
WITH ended AS (
    SELECT n.id
    FROM flowstate_daemon.scheduled_mails AS n
    JOIN unnest($2::text[], $3::text[], $4::date[]) AS c (user_id, task_id, local_date) USING (user_id, task_id, local_date)
    WHERE n.kind = $1::text AND n.state NOT IN ('planned', 'queued')
    ORDER BY n.id
    FOR UPDATE OF n
), renewed AS (
    UPDATE flowstate_daemon.scheduled_mails AS n
    SET state = 'planned', source = 'forced', reason = NULL, outcome_unknown = false, generation = n.generation + 1,
        job_id = regexp_replace(n.job_id, '(notice\.[^.]+\.[^.]+\.[^.]+).*', '\1') || '.' || (n.generation + 1),
        due_at = $5::timestamptz, expires_at = $6::timestamptz, planned_at = $7::timestamptz,
        leased_until = NULL, queued_at = NULL, redis_epoch = NULL, claimed_at = NULL, ended_at = NULL
    FROM ended
    WHERE n.id = ended.id
    RETURNING 1
)
SELECT count(*) FROM renewed;

-- name: lease_scheduled_mails
-- The next due slots of one kind, for one feeder until its lease ends. A lease that ends later than any given now could
-- was given by a clock that has been put back since.
-- $1 kind (text)
-- $2 now (timestamptz)
-- $3 when the lease ends (timestamptz)
-- $4 how many at most (integer)
WITH next AS (
    SELECT id
    FROM flowstate_daemon.scheduled_mails
    WHERE state = 'planned' AND kind = $1::text AND due_at <= $2::timestamptz
        AND (leased_until IS NULL OR leased_until <= $2::timestamptz OR leased_until > $3::timestamptz)
    ORDER BY due_at, id
    LIMIT $4::integer
    FOR UPDATE SKIP LOCKED
)
UPDATE flowstate_daemon.scheduled_mails AS n
SET leased_until = $3::timestamptz
FROM next
WHERE n.id = next.id
RETURNING n.id, n.kind, n.user_id, n.local_date, n.task_id, n.zone, n.due_at, n.expires_at, n.job_id;

-- name: lock_leased_mails
-- Lock what is still ours to hand over: nobody may take a mail whose slot is on its way into the queue.
-- $1 ids (bigint[])
-- $2 when our lease ends (timestamptz)
SELECT id
FROM flowstate_daemon.scheduled_mails
WHERE id = ANY ($1::bigint[]) AND state = 'planned' AND leased_until = $2::timestamptz
ORDER BY id
FOR UPDATE SKIP LOCKED;

-- name: mark_enqueued
-- These have a job in the queue now.
-- $1 ids (bigint[])
-- $2 now (timestamptz)
-- $3 which redis_epoch of Redis holds the jobs (text)
UPDATE flowstate_daemon.scheduled_mails
SET state = 'queued', queued_at = $2::timestamptz, redis_epoch = $3::text, leased_until = NULL
WHERE id = ANY ($1::bigint[]);

-- name: release_leases
-- Give leases back: what could not be handed over now is anybody's.
-- $1 ids (bigint[])
-- $2 when our lease ends (timestamptz)
UPDATE flowstate_daemon.scheduled_mails
SET leased_until = NULL
WHERE id = ANY ($1::bigint[]) AND state = 'planned' AND leased_until = $2::timestamptz;

-- name: next_due
-- When the next slot that waits is due, for each kind of which one waits.
-- $1 kinds (text[])
SELECT k.kind, n.due_at
FROM unnest($1::text[]) AS k (kind)
CROSS JOIN LATERAL (
    SELECT n.due_at
    FROM flowstate_daemon.scheduled_mails AS n
    WHERE n.state = 'planned' AND n.kind = k.kind
    ORDER BY n.due_at
    LIMIT 1
) AS n;

-- name: claim_for_sending
-- May these mails of the calendar leave? Each slot's own job may, until it has ended, and until it is too late.
-- $1 job ids (text[])
-- $2 now (timestamptz)
WITH asked AS (
    SELECT id
    FROM flowstate_daemon.scheduled_mails
    WHERE job_id = ANY ($1::text[]) AND state IN ('planned', 'queued', 'failed') AND NOT outcome_unknown
        AND expires_at > $2::timestamptz
    ORDER BY id
    FOR UPDATE
), granted AS (
    UPDATE flowstate_daemon.scheduled_mails AS n
    SET state = 'queued', queued_at = coalesce(n.queued_at, $2::timestamptz), claimed_at = $2::timestamptz,
        leased_until = NULL, reason = NULL, ended_at = NULL
    FROM asked
    WHERE n.id = asked.id
    RETURNING n.job_id
)
SELECT n.job_id, n.state, n.outcome_unknown, n.expires_at, g.job_id IS NOT NULL AS granted
FROM flowstate_daemon.scheduled_mails AS n
LEFT JOIN granted AS g ON g.job_id = n.job_id
WHERE n.job_id = ANY ($1::text[]);

-- name: list_orphans
-- Slots whose job should have ended by now, one page.
-- $1 queued before this (timestamptz)
-- $2 and, if taken, taken before this (timestamptz)
-- $3 the id after which the page begins (bigint)
-- $4 how many at most (integer)
SELECT id, kind, user_id, job_id, generation, redis_epoch, claimed_at IS NOT NULL AS taken
FROM flowstate_daemon.scheduled_mails
WHERE state = 'queued' AND queued_at < $1::timestamptz AND (claimed_at IS NULL OR claimed_at < $2::timestamptz)
    AND id > $3::bigint
ORDER BY id
LIMIT $4::integer;

-- name: reschedule
-- Jobs that nobody ever took are gone: make new ones. The old ones, should they turn up again, may not be sent.
-- $1 ids (bigint[])
-- $2 job ids (text[])
WITH gone AS (
    SELECT n.id
    FROM flowstate_daemon.scheduled_mails AS n
    JOIN unnest($1::bigint[], $2::text[]) AS g (id, job_id) ON g.id = n.id AND g.job_id = n.job_id
    WHERE n.state = 'queued' AND n.claimed_at IS NULL
    ORDER BY n.id
    FOR UPDATE OF n
), again AS (
    UPDATE flowstate_daemon.scheduled_mails AS n
    SET state = 'planned', queued_at = NULL, redis_epoch = NULL, leased_until = NULL, generation = n.generation + 1,
        job_id = regexp_replace(n.job_id, '(notice\.[^.]+\.[^.]+\.[^.]+).*', '\1') || '.' || (n.generation + 1)
    FROM gone
    WHERE n.id = gone.id
    RETURNING 1
)
SELECT count(*) FROM again;

-- name: mark_unknown
-- Nobody knows what became of these mails: whatever turns up later, they are not sent again. The ledger ends them.
-- $1 ids (bigint[])
-- $2 job ids (text[])
WITH gone AS (
    SELECT n.id
    FROM flowstate_daemon.scheduled_mails AS n
    JOIN unnest($1::bigint[], $2::text[]) AS g (id, job_id) ON g.id = n.id AND g.job_id = n.job_id
    WHERE n.state = 'queued'
    ORDER BY n.id
    FOR UPDATE OF n
)
UPDATE flowstate_daemon.scheduled_mails AS n
SET outcome_unknown = true
FROM gone
WHERE n.id = gone.id
RETURNING n.id;

-- name: get_scheduled_states
-- What has become of these slots, as far as there are any.
-- $1 kind (text)
-- $2 people (text[])
-- $3 items (text[])
-- $4 local dates (date[])
SELECT n.user_id, n.task_id, n.state, n.reason
FROM unnest($2::text[], $3::text[], $4::date[]) AS c (user_id, task_id, local_date)
JOIN flowstate_daemon.scheduled_mails AS n USING (user_id, task_id, local_date)
WHERE n.kind = $1::text;

-- name: list_schedule_runs
-- The last round of each kind and zone, with what became of its slots.
-- $1 not planned before this (timestamptz)
WITH latest AS (
    SELECT DISTINCT ON (kind, zone) kind, zone, local_date, due_at, planned_at, scheduled_mails
    FROM flowstate_daemon.schedule_runs
    WHERE planned_at >= $1::timestamptz
    ORDER BY kind, zone, due_at DESC
)
SELECT l.kind, l.zone, l.local_date, l.due_at, l.planned_at, l.scheduled_mails, n.state, count(n.id) AS count
FROM latest AS l
LEFT JOIN flowstate_daemon.scheduled_mails AS n
    ON n.kind = l.kind AND n.due_at = l.due_at AND n.zone = l.zone AND n.local_date = l.local_date
GROUP BY l.kind, l.zone, l.local_date, l.due_at, l.planned_at, l.scheduled_mails, n.state
ORDER BY l.kind, l.due_at DESC, l.zone, n.state;

-- name: prune_scheduled_mails
-- One small batch of the oldest slots, as far as they are from before a day.
-- $1 keep what is not older than this (timestamptz)
-- $2 how many at most (integer)
WITH oldest AS (
    SELECT id, due_at FROM flowstate_daemon.scheduled_mails ORDER BY id LIMIT $2::integer FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM flowstate_daemon.scheduled_mails WHERE id IN (SELECT id FROM oldest WHERE due_at < $1::timestamptz)
    RETURNING 1
)
SELECT count(*) FROM gone;

-- name: prune_runs
-- The same for schedule_runs.
-- $1 keep what is not older than this (timestamptz)
-- $2 how many at most (integer)
WITH gone AS (
    DELETE FROM flowstate_daemon.schedule_runs WHERE (kind, zone, local_date) IN (
        SELECT kind, zone, local_date FROM flowstate_daemon.schedule_runs WHERE due_at < $1::timestamptz
        ORDER BY due_at LIMIT $2::integer FOR UPDATE SKIP LOCKED
    ) RETURNING 1
)
SELECT count(*) FROM gone;
