-- Plans scheduled emails. Used by planning.py, which replaces {app} by the application's schema and {candidates} by one
-- of the queries find_…_recipients.
--
-- Rows are written in the order of users or ids: two daemons that write the same rows then wait for each other instead
-- of deadlocking.

-- name: list_zones
-- The known time zones that users have chosen.
-- $1 all known time zones (text[])
SELECT DISTINCT u.preferences ->> 'timezone' AS zone
FROM {app}.users AS u
WHERE u.preferences ->> 'timezone' = ANY ($1::text[]);

-- name: list_last_runs
-- The last due time of each kind in each zone. Runs that a wrong clock has planned for the future do not count.
-- $1 now (timestamptz)
SELECT kind, zone, max(due_at) AS due_at
FROM flowstate_daemon.schedule_runs
WHERE due_at <= $1::timestamptz
GROUP BY kind, zone;

-- name: insert_runs
-- Claim these runs for planning. A second planner waits for the first one's transaction and gets the remaining runs.
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
-- Users with open tasks that are due inside the window of their occurrence.
-- $1 end of the last window (timestamptz)
-- $2 start of the first window (timestamptz)
SELECT o.number, t.user_id, CASE WHEN p.per_task THEN t.id ELSE '' END AS task_id, count(*) AS found
FROM (
    SELECT t.id, u.id AS user_id, u.preferences ->> 'timezone' AS zone, t."dueDate" AS due_at
    FROM {app}.tasks AS t
    JOIN {app}.users AS u ON u.id = t."userId"
    WHERE NOT t."isCompleted" AND t."deletedAt" IS NULL
        AND t."dueDate" < $1::timestamptz AT TIME ZONE 'UTC' AND t."dueDate" >= $2::timestamptz AT TIME ZONE 'UTC'
    OFFSET 0 -- a fence: with the joins below Postgres would expect a tenth of these rows, and look users up one by one
) AS t
CROSS JOIN options AS p
LEFT JOIN known_zones AS k ON k.name = t.zone
JOIN occurrences AS o ON o.zone = coalesce(k.name, p.default_zone) AND t.due_at >= o.begins_at AND t.due_at < o.ends_at
GROUP BY 1, 2, 3

-- name: find_overdue_summary_recipients
-- Users with open tasks that were due before the end of the window of their occurrence.
-- $1 end of the last window (timestamptz)
SELECT o.number, u.id AS user_id, '' AS task_id, count(*) AS found
FROM (
    SELECT t."userId" AS user_id, min(t."dueDate") AS oldest
    FROM {app}.tasks AS t
    WHERE NOT t."isCompleted" AND t."deletedAt" IS NULL AND t."dueDate" < $1::timestamptz AT TIME ZONE 'UTC'
    GROUP BY t."userId"
) AS late
JOIN {app}.users AS u ON u.id = late.user_id
LEFT JOIN known_zones AS k ON k.name = u.preferences ->> 'timezone'
JOIN occurrences AS o ON o.zone = coalesce(k.name, (SELECT default_zone FROM options)) AND late.oldest < o.ends_at
GROUP BY 1, 2, 3

-- name: find_focus_report_recipients
-- Users with focus sessions that began inside the window of their occurrence.
-- $1 end of the last window (timestamptz)
-- $2 start of the first window (timestamptz)
SELECT o.number, s.user_id, '' AS task_id, count(*) AS found
FROM (
    SELECT u.id AS user_id, u.preferences ->> 'timezone' AS zone, s."startTime" AS began_at
    FROM {app}.focus_sessions AS s
    JOIN {app}.users AS u ON u.id = s."userId"
    WHERE s."startTime" < $1::timestamptz AT TIME ZONE 'UTC' AND s."startTime" >= $2::timestamptz AT TIME ZONE 'UTC'
    OFFSET 0 -- a fence, as above
) AS s
CROSS JOIN options AS p
LEFT JOIN known_zones AS k ON k.name = s.zone
JOIN occurrences AS o
    ON o.zone = coalesce(k.name, p.default_zone) AND s.began_at >= o.begins_at AND s.began_at < o.ends_at
GROUP BY 1, 2, 3

-- name: insert_scheduled_mails
-- Insert a scheduled email for each candidate that has none on that local date. Returns how many tasks or sessions were
-- found, for how many recipients, and how many scheduled emails are new.
-- $1 end of the last window (timestamptz)
-- $2 start of the first window (timestamptz)
-- $3 kind (text)
-- $4 time zone of each occurrence (text[])
-- $5 local dates (date[])
-- $6 when each is due (timestamptz[])
-- $7 when each expires (timestamptz[])
-- $8 start of each window (timestamptz[])
-- $9 end of each window (timestamptz[])
-- $10 all known time zones (text[])
-- $11 time zone of users without a known one (text)
-- $12 one email per task instead of one per user (boolean)
-- $13 source (text)
-- $14 now (timestamptz)
WITH occurrences AS MATERIALIZED (
    SELECT
        o.number, o.zone, o.local_date, o.due_at, o.expires_at,
        o.begins_at AT TIME ZONE 'UTC' AS begins_at, o.ends_at AT TIME ZONE 'UTC' AS ends_at
    FROM unnest($4::text[], $5::date[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[], $9::timestamptz[])
        WITH ORDINALITY AS o (zone, local_date, due_at, expires_at, begins_at, ends_at, number)
    WHERE o.ends_at <= $1::timestamptz AND o.begins_at >= $2::timestamptz
), known_zones AS MATERIALIZED (
    SELECT name FROM unnest($10::text[]) AS k (name)
), options AS MATERIALIZED (
    SELECT $11::text AS default_zone, $12::boolean AS per_task
), candidates AS MATERIALIZED (
{candidates}
), planned AS (
    INSERT INTO flowstate_daemon.scheduled_mails
        (kind, user_id, local_date, task_id, zone, due_at, expires_at, source, job_id, planned_at)
    SELECT
        $3::text, c.user_id, o.local_date, c.task_id, o.zone, o.due_at, o.expires_at, $13::text,
        concat_ws('.', 'scheduled', $3::text, to_char(o.local_date, 'YYYYMMDD'), md5(ROW(c.user_id, c.task_id)::text)),
        $14::timestamptz
    FROM candidates AS c
    JOIN occurrences AS o ON o.number = c.number
    ORDER BY c.user_id, o.local_date, c.task_id
    ON CONFLICT (user_id, kind, local_date, task_id) DO NOTHING
    RETURNING zone, local_date
), counted AS (
    UPDATE flowstate_daemon.schedule_runs AS r
    SET scheduled = p.scheduled
    FROM (SELECT zone, local_date, count(*) AS scheduled FROM planned GROUP BY zone, local_date) AS p
    WHERE r.kind = $3::text AND r.zone = p.zone AND r.local_date = p.local_date AND $13::text = 'clock'
)
SELECT
    (SELECT coalesce(sum(found), 0)::bigint FROM candidates) AS found,
    (SELECT count(DISTINCT user_id) FROM candidates) AS recipients,
    (SELECT count(*) FROM planned) AS scheduled;

-- name: list_recipients
-- One page of the same candidates, ordered by user, without writing anything.
-- $1 end of the last window (timestamptz)
-- $2 start of the first window (timestamptz)
-- $3 time zone of each occurrence (text[])
-- $4 start of each window (timestamptz[])
-- $5 end of each window (timestamptz[])
-- $6 all known time zones (text[])
-- $7 time zone of users without a known one (text)
-- $8 one email per task instead of one per user (boolean)
-- $9 user id of the row before the page, or '' (text)
-- $10 its task id (text)
-- $11 maximum number of rows (integer)
WITH occurrences AS MATERIALIZED (
    SELECT
        o.number, o.zone,
        o.begins_at AT TIME ZONE 'UTC' AS begins_at, o.ends_at AT TIME ZONE 'UTC' AS ends_at
    FROM unnest($3::text[], $4::timestamptz[], $5::timestamptz[])
        WITH ORDINALITY AS o (zone, begins_at, ends_at, number)
    WHERE o.ends_at <= $1::timestamptz AND o.begins_at >= $2::timestamptz
), known_zones AS MATERIALIZED (
    SELECT name FROM unnest($6::text[]) AS k (name)
), options AS MATERIALIZED (
    SELECT $7::text AS default_zone, $8::boolean AS per_task
)
SELECT c.number, c.user_id, c.task_id
FROM (
{candidates}
) AS c
WHERE (c.user_id, c.task_id) > ($9::text, $10::text)
ORDER BY c.user_id, c.task_id
LIMIT $11::integer;

-- name: reopen_scheduled_mails
-- Plan ended scheduled emails again for a forced run, each with a new job id.
-- $1 kind (text)
-- $2 user ids (text[])
-- $3 task ids (text[])
-- $4 local dates (date[])
-- $5 when they are due (timestamptz)
-- $6 when they expire (timestamptz)
-- $7 now (timestamptz)
WITH ended AS (
    SELECT m.id
    FROM flowstate_daemon.scheduled_mails AS m
    JOIN unnest($2::text[], $3::text[], $4::date[]) AS c (user_id, task_id, local_date)
        USING (user_id, task_id, local_date)
    WHERE m.kind = $1::text AND m.state NOT IN ('planned', 'queued')
    ORDER BY m.id
    FOR UPDATE OF m
), reopened AS (
    UPDATE flowstate_daemon.scheduled_mails AS m
    SET state = 'planned', source = 'forced', reason = NULL, outcome_unknown = false, generation = m.generation + 1,
        job_id = regexp_replace(m.job_id, '(scheduled\.[^.]+\.[^.]+\.[^.]+).*', '\1') || '.' || (m.generation + 1),
        due_at = $5::timestamptz, expires_at = $6::timestamptz, planned_at = $7::timestamptz,
        leased_until = NULL, queued_at = NULL, redis_epoch = NULL, claimed_at = NULL, ended_at = NULL
    FROM ended
    WHERE m.id = ended.id
    RETURNING 1
)
SELECT count(*) FROM reopened;

-- name: get_scheduled_states
-- The state of each of these scheduled emails; those that do not exist have no row.
-- $1 kind (text)
-- $2 user ids (text[])
-- $3 task ids (text[])
-- $4 local dates (date[])
SELECT m.user_id, m.task_id, m.state, m.reason
FROM unnest($2::text[], $3::text[], $4::date[]) AS c (user_id, task_id, local_date)
JOIN flowstate_daemon.scheduled_mails AS m USING (user_id, task_id, local_date)
WHERE m.kind = $1::text;

-- name: list_schedule_runs
-- The last run of each kind and zone, with the number of its emails by state.
-- $1 planned at or after this (timestamptz)
WITH latest AS (
    SELECT DISTINCT ON (kind, zone) kind, zone, local_date, due_at, planned_at, scheduled
    FROM flowstate_daemon.schedule_runs
    WHERE planned_at >= $1::timestamptz
    ORDER BY kind, zone, due_at DESC
)
SELECT l.kind, l.zone, l.local_date, l.due_at, l.planned_at, l.scheduled, m.state, count(m.id) AS count
FROM latest AS l
-- Not by the due time: a forced run gives the emails of the date another one. The bound is for the index.
LEFT JOIN flowstate_daemon.scheduled_mails AS m
    ON m.kind = l.kind AND m.zone = l.zone AND m.local_date = l.local_date AND m.due_at >= l.due_at - interval '31 days'
GROUP BY l.kind, l.zone, l.local_date, l.due_at, l.planned_at, l.scheduled, m.state
ORDER BY l.kind, l.due_at DESC, l.zone, m.state;

-- name: list_manual_runs
-- The last manual run of each kind, with the number of its emails by state. Its emails have its time as planning time.
-- $1 at or after this (timestamptz)
-- $2 the beginning of the name of such an action, before the kind (text)
WITH latest AS (
    SELECT DISTINCT ON (action) substr(action, length($2::text) + 1) AS kind, at, actor, count AS scheduled
    FROM flowstate_daemon.operator_actions
    WHERE starts_with(action, $2::text) AND at >= $1::timestamptz
    ORDER BY action, at DESC, id DESC
)
SELECT l.kind, l.at, l.actor, l.scheduled, m.state, count(m.id) AS count
FROM latest AS l
LEFT JOIN flowstate_daemon.scheduled_mails AS m ON m.kind = l.kind AND m.planned_at = l.at AND m.source <> 'clock'
GROUP BY l.kind, l.at, l.actor, l.scheduled, m.state
ORDER BY l.kind, m.state;
