-- What the application knows about people and their work: read, never written. Each query serves hundreds of people.
-- Read by facts.py, which puts the application's schema in the place of {app}.
--
-- The application's timestamps hold UTC without saying so. What no mail can show, such as years before Christ, is
-- brought to a year that every client can read; titles are cut, because one of a megabyte has to travel as well.

-- name: get_users
-- What is stored about people themselves, however strange their preferences are: those may be any JSON at all.
-- $1 ids (text[])
-- $2 names of notifications (text[])
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

-- name: list_due_tasks
-- The first tasks that are due in each window, and how many there are; a window may ask for one task only.
-- $1 whose window it is (text[])
-- $2 where it begins (timestamptz[])
-- $3 where it ends, itself not included (timestamptz[])
-- $4 the one task that is asked for, or '' (text[])
-- $5 how many tasks of a window at most (integer)
WITH windows AS (
    SELECT
        w.number, w.user_id, w.task_id,
        w.begins_at AT TIME ZONE 'UTC' AS begins_at, w.ends_at AT TIME ZONE 'UTC' AS ends_at
    FROM unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::text[])
        WITH ORDINALITY AS w (user_id, begins_at, ends_at, task_id, number)
)
SELECT w.number, t.id, left(t.title, 500) AS title, t.priority, t."estimatedDuration" AS minutes,
    left(p.name, 500) AS project, t.total
FROM windows AS w
CROSS JOIN LATERAL (
    SELECT
        d.id, d.title, d.priority, d."estimatedDuration", d."projectId", d."dueDate", d."createdAt",
        count(*) OVER () AS total
    FROM {app}.tasks AS d
    WHERE d."userId" = w.user_id AND NOT d."isCompleted" AND d."deletedAt" IS NULL
        AND d."dueDate" >= w.begins_at AND d."dueDate" < w.ends_at
        AND (w.task_id = '' OR d.id = w.task_id)
    ORDER BY d."dueDate", d."createdAt", d.id
    LIMIT $5::integer
) AS t
LEFT JOIN {app}.projects AS p ON p.id = t."projectId"
ORDER BY w.number, t."dueDate", t."createdAt", t.id;

-- name: list_overdue_tasks
-- The oldest tasks that were due before each person's today, and how many there are in truth.
-- $1 people (text[])
-- $2 where the today of each begins (timestamptz[])
-- $3 how many tasks of a person at most (integer)
WITH windows AS (
    SELECT w.user_id, w.ends_at AT TIME ZONE 'UTC' AS ends_at
    FROM unnest($1::text[], $2::timestamptz[]) AS w (user_id, ends_at)
)
SELECT w.user_id, t.id, left(t.title, 500) AS title,
    greatest(t."dueDate", timestamp '0002-01-01') AS due_at, c.total
FROM windows AS w
CROSS JOIN LATERAL (
    SELECT count(*) AS total
    FROM {app}.tasks AS d
    WHERE d."userId" = w.user_id AND NOT d."isCompleted" AND d."deletedAt" IS NULL AND d."dueDate" < w.ends_at
) AS c
CROSS JOIN LATERAL (
    SELECT d.id, d.title, d."dueDate"
    FROM {app}.tasks AS d
    WHERE d."userId" = w.user_id AND NOT d."isCompleted" AND d."deletedAt" IS NULL AND d."dueDate" < w.ends_at
    ORDER BY d."dueDate", d.id
    LIMIT $3::integer
) AS t
ORDER BY w.user_id, t."dueDate", t.id;

-- name: list_focus_by_day
-- Sessions of each person summed up by part: the parts lie between the instants given, numbered from 1.
-- No session counts for less than nothing or for more than a day; a rating outside of 1 to 5 is none.
-- $1 people, once for each instant (text[])
-- $2 instants, in order (timestamptz[])
WITH parts AS (
    SELECT w.user_id, array_agg(w.at AT TIME ZONE 'UTC' ORDER BY w.at) AS instants
    FROM unnest($1::text[], $2::timestamptz[]) AS w (user_id, at)
    GROUP BY w.user_id
)
SELECT
    p.user_id,
    width_bucket(s."startTime", p.instants) AS part,
    count(*) AS sessions,
    sum(greatest(0, least(coalesce(s."actualDuration", s."plannedDuration", 0), 1440)))::bigint AS minutes,
    count(*) FILTER (WHERE s."focusRating" BETWEEN 1 AND 5) AS rated,
    coalesce(sum(s."focusRating") FILTER (WHERE s."focusRating" BETWEEN 1 AND 5), 0)::bigint AS ratings
FROM parts AS p
JOIN {app}.focus_sessions AS s
    ON s."userId" = p.user_id AND s."startTime" >= p.instants[1]
        AND s."startTime" < p.instants[array_upper(p.instants, 1)]
GROUP BY p.user_id, part
ORDER BY p.user_id, part;

-- name: list_focus_by_task
-- What most of the time went to: the first few tasks of each person. Sessions without a task count together, as none.
-- $1 people (text[])
-- $2 where the week of each begins (timestamptz[])
-- $3 where it ends, itself not included (timestamptz[])
-- $4 how many of a person at most (integer)
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
    SELECT user_id, task_id, minutes, row_number() OVER (PARTITION BY user_id ORDER BY minutes DESC, task_id) AS place
    FROM summed
    WHERE minutes > 0
)
SELECT r.user_id, r.task_id, left(t.title, 500) AS title, r.minutes
FROM ranked AS r
LEFT JOIN {app}.tasks AS t ON t.id = r.task_id
WHERE r.place <= $4::integer
ORDER BY r.user_id, r.place;
