-- Plans scheduled emails. Used by planning.py, which replaces {app} by the application's schema and {candidates} by one
-- of the queries find_…_recipients. Those use the tables of the query around them: occurrences, known_zones, options,
-- choices and moved; {only} limits them to people who have moved, whose rows an index finds. Deleted projects are excluded
-- by NOT IN: Postgres expects next to no rows of an anti-join, and would then compare each user with each time zone. The
-- column `zone` of schedule_runs has a chosen hour behind the zone: `Europe/Paris 07`.
--
-- Rows are written in the order of users or ids: two daemons that write the same rows then wait for each other instead
-- of deadlocking.

-- name: list_cohorts
-- The known time zones that users have chosen, with the hours for morning emails that some of them have chosen there.
-- What was chosen here counts before the application's preferences. Hour -1: none was chosen.
-- $1 all known time zones (text[])
-- $2 time zone of users without a known one (text)
SELECT DISTINCT u.preferences ->> 'timezone' AS zone, -1 AS hour
FROM {app}.users AS u
WHERE u.preferences ->> 'timezone' = ANY ($1::text[])
UNION
SELECT p.time_zone, coalesce(p.morning_hour, -1)
FROM flowstate_daemon.preferences AS p
WHERE p.time_zone = ANY ($1::text[])
UNION
SELECT coalesce(k.name, $2::text), c.hour
FROM (
    SELECT e.email, p.morning_hour AS hour
    FROM flowstate_daemon.preferences AS p
    CROSS JOIN LATERAL (VALUES (p.address), (p.spelling)) AS e (email)
    WHERE p.time_zone IS NULL AND p.morning_hour IS NOT NULL
) AS c
JOIN {app}.users AS u ON lower(btrim(u.email)) = c.email
LEFT JOIN unnest($1::text[]) AS k (name) ON k.name = u.preferences ->> 'timezone';

-- name: get_last_move
-- When a user last changed time zone or hour here; null if none ever did.
SELECT max(moved_at) FROM flowstate_daemon.preferences;

-- name: list_last_runs
-- The last due time of each kind in each zone, and for each hour chosen there. Runs that a wrong clock has planned for the future do not count.
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
-- Users with open tasks that are due inside the window of their occurrence. For a user who has changed their zone, the
-- email is about the tasks that the emails in the old zone did not cover, and there may be two for one date. A skipped
-- email covers nothing.
-- $1 end of the last window (timestamptz)
-- $2 start of the first window (timestamptz)
SELECT
    o.number, t.user_id,
    CASE
        WHEN p.per_task THEN t.id
        WHEN e.partly OR e.taken THEN
            'after ' || to_char(CASE WHEN e.partly THEN e.covers_until ELSE o.begins_at END, 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
        ELSE ''
    END AS task_id,
    count(*) AS found
FROM (
    SELECT t.id, u.id AS user_id, u.preferences ->> 'timezone' AS zone, t."dueDate" AS due_at, lower(btrim(u.email)) AS email
    FROM {app}.tasks AS t
    JOIN {app}.users AS u ON u.id = t."userId"
    WHERE NOT t."isCompleted" AND t."deletedAt" IS NULL
        AND t."dueDate" < $1::timestamptz AT TIME ZONE 'UTC' AND t."dueDate" >= $2::timestamptz AT TIME ZONE 'UTC'
        AND (t."projectId" IS NULL OR t."projectId" NOT IN (SELECT id FROM {app}.projects WHERE "deletedAt" IS NOT NULL))
        {only}
    OFFSET 0 -- a fence: with the joins below Postgres would expect a tenth of these rows, and look users up one by one
) AS t
CROSS JOIN options AS p
LEFT JOIN choices AS c ON c.email = t.email
LEFT JOIN known_zones AS k ON k.name = coalesce(c.zone, t.zone)
JOIN occurrences AS o
    ON o.zone = coalesce(k.name, p.default_zone) AND o.hour = coalesce(nullif(c.hour, p.usual_hour), -1)
    AND t.due_at >= o.begins_at AND t.due_at < o.ends_at
CROSS JOIN LATERAL (
    SELECT
        r.covers_until, coalesce(r.taken, false) AS taken,
        coalesce(r.covers_until > o.begins_at AND (r.zone <> o.zone OR r.taken), false) AS partly
    FROM (
        SELECT
            max(m.covers_until) FILTER (WHERE m.state NOT IN ('skipped', 'expired')) AT TIME ZONE 'UTC' AS covers_until,
            (array_agg(m.zone ORDER BY m.covers_until DESC) FILTER (WHERE m.state NOT IN ('skipped', 'expired')))[1] AS zone,
            bool_or(m.task_id = '' AND m.local_date = o.local_date AND m.zone <> o.zone) AS taken
        FROM flowstate_daemon.scheduled_mails AS m
        WHERE m.user_id = t.user_id AND m.kind = 'task-reminder' AND m.covers_until IS NOT NULL
            AND m.local_date BETWEEN o.local_date - 2 AND o.local_date + 2 AND (m.task_id = '' OR m.task_id LIKE 'after %')
    ) AS r
) AS e
WHERE (NOT e.partly OR t.due_at >= e.covers_until) AND (NOT p.moved_only OR c.moved_at >= o.due_at)
GROUP BY 1, 2, 3

-- name: find_overdue_summary_recipients
-- Users with open tasks that were due before the end of the window of their occurrence.
-- $1 end of the last window (timestamptz)
SELECT o.number, u.id AS user_id, '' AS task_id, count(*) AS found
FROM (
    SELECT t."userId" AS user_id, min(t."dueDate") AS oldest
    FROM {app}.tasks AS t
    WHERE NOT t."isCompleted" AND t."deletedAt" IS NULL AND t."dueDate" < $1::timestamptz AT TIME ZONE 'UTC'
        AND (t."projectId" IS NULL OR t."projectId" NOT IN (SELECT id FROM {app}.projects WHERE "deletedAt" IS NOT NULL))
        {only}
    GROUP BY t."userId"
) AS late
JOIN {app}.users AS u ON u.id = late.user_id
CROSS JOIN options AS p
LEFT JOIN choices AS c ON c.email = lower(btrim(u.email))
LEFT JOIN known_zones AS k ON k.name = coalesce(c.zone, u.preferences ->> 'timezone')
JOIN occurrences AS o
    ON o.zone = coalesce(k.name, p.default_zone) AND o.hour = coalesce(nullif(c.hour, p.usual_hour), -1)
    AND late.oldest < o.ends_at
WHERE NOT p.moved_only OR c.moved_at >= o.due_at
GROUP BY 1, 2, 3

-- name: find_focus_report_recipients
-- Users with focus sessions that began inside the window of their occurrence.
-- $1 end of the last window (timestamptz)
-- $2 start of the first window (timestamptz)
SELECT o.number, s.user_id, '' AS task_id, count(*) AS found
FROM (
    SELECT u.id AS user_id, u.preferences ->> 'timezone' AS zone, s."startTime" AS began_at, lower(btrim(u.email)) AS email
    FROM {app}.focus_sessions AS s
    JOIN {app}.users AS u ON u.id = s."userId"
    WHERE s."startTime" < $1::timestamptz AT TIME ZONE 'UTC' AND s."startTime" >= $2::timestamptz AT TIME ZONE 'UTC'
        {only}
    OFFSET 0 -- a fence, as above
) AS s
CROSS JOIN options AS p
LEFT JOIN choices AS c ON c.email = s.email
LEFT JOIN known_zones AS k ON k.name = coalesce(c.zone, s.zone)
JOIN occurrences AS o
    ON o.zone = coalesce(k.name, p.default_zone) AND s.began_at >= o.begins_at AND s.began_at < o.ends_at
WHERE NOT p.moved_only OR c.moved_at >= o.due_at
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
-- $15 hour that people in each occurrence have chosen, or -1 (smallint[])
-- $16 hour at which the kind is due for everybody, so that choosing it makes no difference; or -1 (smallint)
-- $17 only people who have changed zone or hour since the occurrence was due (boolean)
WITH occurrences AS MATERIALIZED (
    SELECT
        o.number, o.zone, o.hour, o.local_date, o.due_at, o.expires_at,
        o.begins_at AT TIME ZONE 'UTC' AS begins_at, o.ends_at AT TIME ZONE 'UTC' AS ends_at
    FROM unnest($4::text[], $5::date[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[], $9::timestamptz[], $15::smallint[])
        WITH ORDINALITY AS o (zone, local_date, due_at, expires_at, begins_at, ends_at, hour, number)
    WHERE o.ends_at <= $1::timestamptz AND o.begins_at >= $2::timestamptz
), known_zones AS MATERIALIZED (
    SELECT name FROM unnest($10::text[]) AS k (name)
), options AS MATERIALIZED (
    SELECT $11::text AS default_zone, $12::boolean AS per_task, $16::smallint AS usual_hour, $17::boolean AS moved_only
), {shared}
candidates AS MATERIALIZED (
{candidates}
), planned AS (
    INSERT INTO flowstate_daemon.scheduled_mails
        (kind, user_id, local_date, task_id, zone, due_at, expires_at, source, job_id, planned_at, covers_until)
    SELECT
        $3::text, c.user_id, o.local_date, c.task_id, o.zone, o.due_at, o.expires_at, $13::text,
        concat_ws('.', 'scheduled', $3::text, to_char(o.local_date, 'YYYYMMDD'), md5(ROW(c.user_id, c.task_id)::text)),
        $14::timestamptz, o.ends_at AT TIME ZONE 'UTC'
    FROM candidates AS c
    JOIN occurrences AS o ON o.number = c.number
    ORDER BY c.user_id, o.local_date, c.task_id
    ON CONFLICT (user_id, kind, local_date, task_id) DO NOTHING
    RETURNING zone, local_date, due_at
), counted AS (
    UPDATE flowstate_daemon.schedule_runs AS r
    SET scheduled = r.scheduled + p.scheduled
    FROM (SELECT zone, local_date, due_at, count(*) AS scheduled FROM planned GROUP BY zone, local_date, due_at) AS p
    WHERE r.kind = $3::text AND split_part(r.zone, ' ', 1) = p.zone AND r.local_date = p.local_date
        AND r.due_at = p.due_at AND $13::text = 'clock'
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
-- $4 local dates (date[])
-- $5 start of each window (timestamptz[])
-- $6 end of each window (timestamptz[])
-- $7 hour that people in each occurrence have chosen, or -1 (smallint[])
-- $8 all known time zones (text[])
-- $9 time zone of users without a known one (text)
-- $10 one email per task instead of one per user (boolean)
-- $11 hour at which the kind is due for everybody, or -1 (smallint)
-- $12 user id of the row before the page, or '' (text)
-- $13 its task id (text)
-- $14 maximum number of rows (integer)
WITH occurrences AS MATERIALIZED (
    SELECT
        o.number, o.zone, o.hour, o.local_date, NULL::timestamptz AS due_at,
        o.begins_at AT TIME ZONE 'UTC' AS begins_at, o.ends_at AT TIME ZONE 'UTC' AS ends_at
    FROM unnest($3::text[], $4::date[], $5::timestamptz[], $6::timestamptz[], $7::smallint[])
        WITH ORDINALITY AS o (zone, local_date, begins_at, ends_at, hour, number)
    WHERE o.ends_at <= $1::timestamptz AND o.begins_at >= $2::timestamptz
), known_zones AS MATERIALIZED (
    SELECT name FROM unnest($8::text[]) AS k (name)
), options AS MATERIALIZED (
    SELECT $9::text AS default_zone, $10::boolean AS per_task, $11::smallint AS usual_hour, false AS moved_only
), {shared}
candidates AS (
{candidates}
)
SELECT c.number, c.user_id, c.task_id
FROM candidates AS c
WHERE (c.user_id, c.task_id) > ($12::text, $13::text)
ORDER BY c.user_id, c.task_id
LIMIT $14::integer;

-- name: shared_tables
-- What people have chosen here, by the address as the application may store it, and who has changed zone or hour lately.
-- Both queries above need these tables, in place of {shared}.
choices AS MATERIALIZED (
    SELECT address AS email, time_zone AS zone, morning_hour AS hour, moved_at FROM flowstate_daemon.preferences
    UNION ALL
    SELECT spelling, time_zone, morning_hour, moved_at FROM flowstate_daemon.preferences WHERE spelling <> address
), moved AS MATERIALIZED (
    SELECT u.id AS user_id
    FROM flowstate_daemon.preferences AS p
    JOIN {app}.users AS u ON u.email IN (p.address, p.spelling)
    WHERE p.moved_at >= (SELECT min(due_at) FROM occurrences)
),

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
WITH last_of_zone AS (
    SELECT DISTINCT ON (kind, zone) kind, zone, local_date, due_at, planned_at, scheduled
    FROM flowstate_daemon.schedule_runs
    WHERE planned_at >= $1::timestamptz
    ORDER BY kind, zone, due_at DESC
), latest AS (
    SELECT
        z.*, split_part(z.zone, ' ', 1) AS time_zone,
        row_number() OVER (PARTITION BY z.kind, split_part(z.zone, ' ', 1), z.local_date ORDER BY z.zone) AS number
    FROM last_of_zone AS z
)
SELECT l.kind, l.zone, l.local_date, l.due_at, l.planned_at, l.scheduled, m.state, count(m.id) AS count
FROM latest AS l
-- By the due time, which distinguishes the hours chosen in one zone; the first run of the zone has those of the date with
-- another one, which a forced run gives them. The bound is for the index.
LEFT JOIN flowstate_daemon.scheduled_mails AS m
    ON m.kind = l.kind AND m.zone = l.time_zone AND m.local_date = l.local_date
    AND m.due_at >= l.due_at - interval '31 days'
    AND (m.due_at = l.due_at OR l.number = 1 AND NOT EXISTS (
        SELECT FROM latest AS o
        WHERE o.kind = m.kind AND o.time_zone = m.zone AND o.local_date = m.local_date AND o.due_at = m.due_at
    ))
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
