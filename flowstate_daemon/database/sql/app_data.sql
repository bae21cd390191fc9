-- Reads the application's users, tasks and focus sessions; never writes. Each query serves hundreds of users.
-- Used by app_data.py, which replaces {app} by the application's schema.
--
-- The application's timestamps have no time zone and hold UTC. Dates that Python cannot represent, such as years BC,
-- are raised to year 2; titles are truncated, so that a title of a megabyte is not transferred.

-- name: get_users
-- The users themselves. Preferences may be any JSON, so every path must tolerate any value.
-- $1 ids (text[])
-- $2 names of the notification preferences (text[])
SELECT
    u.id AS user_id,
    left(u.email, 320) AS email,
    left(u."fullName", 200) AS full_name,
    coalesce(u."isEmailVerified", false) AS verified,
    u."deletedAt" IS NOT NULL AS deleted,
    left(u.preferences ->> 'language', 40) AS language,
    left(u.preferences ->> 'timezone', 100) AS zone,
    CASE
        WHEN u.preferences ->> 'notifications' = 'false' THEN $2::text[]
        ELSE ARRAY(
            SELECT n.name
            FROM unnest($2::text[]) AS n (name)
            WHERE lower(u.preferences #>> ARRAY['notifications', n.name]) = 'false'
        )
    END AS refused
FROM {app}.users AS u
WHERE u.id = ANY ($1::text[]);

-- name: find_users
-- The users with one of these addresses, which the unique index on the address finds; several may differ in capitals.
-- $1 addresses in the spellings that the application may have stored (text[])
SELECT id AS user_id FROM {app}.users WHERE email = ANY ($1::text[]);

-- name: list_due_tasks
-- The first tasks due in each window, and their total number; a window may be limited to one task. Tasks of deleted
-- projects are left out.
-- $1 user of each window (text[])
-- $2 start of each window (timestamptz[])
-- $3 end of each window, exclusive (timestamptz[])
-- $4 the only task of interest, or '' (text[])
-- $5 maximum number of tasks per window (integer)
WITH windows AS (
    SELECT
        w.number, w.user_id, w.task_id,
        w.begins_at AT TIME ZONE 'UTC' AS begins_at, w.ends_at AT TIME ZONE 'UTC' AS ends_at
    FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::text[])
        WITH ORDINALITY AS w (user_id, begins_at, ends_at, task_id, number)
)
SELECT w.number, t.id, left(t.title, 500) AS title, t.priority, t."estimatedDuration" AS minutes,
    left(p.name, 500) AS project, t."dueDate" AS due_at, t.total
FROM windows AS w
CROSS JOIN LATERAL (
    SELECT
        d.id, d.title, d.priority, d."estimatedDuration", d."projectId", d."dueDate", d."createdAt",
        count(*) OVER () AS total
    FROM {app}.tasks AS d
    WHERE d."userId" = w.user_id AND NOT d."isCompleted" AND d."deletedAt" IS NULL
        AND d."dueDate" >= w.begins_at AND d."dueDate" < w.ends_at
        AND (w.task_id = '' OR d.id = w.task_id)
        AND NOT EXISTS (SELECT FROM {app}.projects AS x WHERE x.id = d."projectId" AND x."deletedAt" IS NOT NULL)
    ORDER BY d."dueDate", d."createdAt", d.id
    LIMIT $5::integer
) AS t
LEFT JOIN {app}.projects AS p ON p.id = t."projectId"
ORDER BY w.number, t."dueDate", t."createdAt", t.id;

-- name: list_overdue_tasks
-- The oldest tasks that were due before each user's local today, their total number, and a fingerprint of all of them,
-- which changes when a task is added, finished, moved or renamed. Tasks of deleted projects are left out.
-- $1 user ids (text[])
-- $2 start of each user's local today (timestamptz[])
-- $3 maximum number of tasks per user (integer)
WITH windows AS (
    SELECT w.user_id, w.ends_at AT TIME ZONE 'UTC' AS ends_at
    FROM unnest($1::text[], $2::timestamptz[]) AS w (user_id, ends_at)
)
SELECT w.user_id, t.id, left(t.title, 500) AS title,
    greatest(t."dueDate", timestamp '0002-01-01') AS due_at, c.total, c.fingerprint
FROM windows AS w
CROSS JOIN LATERAL (
    SELECT
        count(*) AS total,
        sum(hashtextextended(concat_ws(' ', d.id, d."dueDate", md5(d.title)), 0))::text AS fingerprint
    FROM {app}.tasks AS d
    WHERE d."userId" = w.user_id AND NOT d."isCompleted" AND d."deletedAt" IS NULL AND d."dueDate" < w.ends_at
        AND NOT EXISTS (SELECT FROM {app}.projects AS x WHERE x.id = d."projectId" AND x."deletedAt" IS NOT NULL)
) AS c
CROSS JOIN LATERAL (
    SELECT d.id, d.title, d."dueDate"
    FROM {app}.tasks AS d
    WHERE d."userId" = w.user_id AND NOT d."isCompleted" AND d."deletedAt" IS NULL AND d."dueDate" < w.ends_at
        AND NOT EXISTS (SELECT FROM {app}.projects AS x WHERE x.id = d."projectId" AND x."deletedAt" IS NOT NULL)
    ORDER BY d."dueDate", d.id
    LIMIT $3::integer
) AS t
ORDER BY w.user_id, t."dueDate", t.id;

-- name: list_focus_by_day
-- Totals of each user's sessions per interval; the intervals lie between the given instants, numbered from 1.
-- A session counts between 0 minutes and one day; a rating outside of 1 to 5 counts as none.
-- $1 user ids, once for each instant (text[])
-- $2 instants, in order (timestamptz[])
WITH intervals AS (
    SELECT w.user_id, array_agg(w.at AT TIME ZONE 'UTC' ORDER BY w.at) AS instants
    FROM unnest($1::text[], $2::timestamptz[]) AS w (user_id, at)
    GROUP BY w.user_id
)
SELECT
    i.user_id,
    width_bucket(s."startTime", i.instants) AS interval_number,
    count(*) AS sessions,
    sum(greatest(0, least(coalesce(s."actualDuration", s."plannedDuration", 0), 1440)))::bigint AS minutes,
    count(*) FILTER (WHERE s."focusRating" BETWEEN 1 AND 5) AS rated,
    coalesce(sum(s."focusRating") FILTER (WHERE s."focusRating" BETWEEN 1 AND 5), 0)::bigint AS ratings
FROM intervals AS i
JOIN {app}.focus_sessions AS s
    ON s."userId" = i.user_id AND s."startTime" >= i.instants[1]
        AND s."startTime" < i.instants[array_upper(i.instants, 1)]
GROUP BY i.user_id, interval_number
ORDER BY i.user_id, interval_number;

-- name: list_focus_by_task
-- The tasks with most minutes of each user. Sessions without a task are summed under the task id NULL.
-- $1 user ids (text[])
-- $2 start of each user's week (timestamptz[])
-- $3 end of each user's week, exclusive (timestamptz[])
-- $4 maximum number of tasks per user (integer)
WITH windows AS (
    SELECT w.user_id, w.begins_at AT TIME ZONE 'UTC' AS begins_at, w.ends_at AT TIME ZONE 'UTC' AS ends_at
    FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[]) AS w (user_id, begins_at, ends_at)
), summed AS (
    SELECT
        w.user_id, s."taskId" AS task_id,
        sum(greatest(0, least(coalesce(s."actualDuration", s."plannedDuration", 0), 1440)))::bigint AS minutes
    FROM windows AS w
    JOIN {app}.focus_sessions AS s
        ON s."userId" = w.user_id AND s."startTime" >= w.begins_at AND s."startTime" < w.ends_at
    GROUP BY w.user_id, s."taskId"
), ranked AS (
    SELECT
        user_id, task_id, minutes,
        row_number() OVER (PARTITION BY user_id ORDER BY minutes DESC, task_id) AS position
    FROM summed
    WHERE minutes > 0
)
SELECT r.user_id, r.task_id, left(t.title, 500) AS title, r.minutes
FROM ranked AS r
LEFT JOIN {app}.tasks AS t ON t.id = r.task_id
WHERE r.position <= $4::integer
ORDER BY r.user_id, r.position;
