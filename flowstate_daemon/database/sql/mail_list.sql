-- Lists of the ledger for operators. Used by mail_list.py.

-- name: list_outcomes
-- Examines the newest outcomes within the times, and returns those that match the filter, newest first; a null filter
-- matches everything. Unless it returns the maximum, the last row is the last one that was examined, whether it matches
-- or not. `number` counts the examined rows, `examined` is how many there were. {scope} is a condition with an index of
-- its own: a plan for all parameters at once could not use one for each of them.
-- $1 kinds, or null (text[])
-- $2 outcomes, or null (text[])
-- $3 address, normalised, or null (text)
-- $4 text that the reason contains, or null (text)
-- $5 not before, or null (timestamptz)
-- $6 not after, or null (timestamptz)
-- $7 time of the row after which to begin, or null (timestamptz)
-- $8 key of that row (text)
-- $9 outcome of that row (text)
-- $10 maximum number of rows to return (integer)
-- $11 maximum number of rows to examine (integer)
WITH examined AS MATERIALIZED (
    SELECT
        key, outcome, at,
        ($1::text[] IS NULL OR kind = ANY ($1::text[]))
            AND ($2::text[] IS NULL OR outcome = ANY ($2::text[]))
            AND ($3::text IS NULL OR address = $3::text)
            AND ($4::text IS NULL OR coalesce(position(lower($4::text) IN lower(reason)) > 0, false)) AS matches
    FROM flowstate_daemon.mails
    WHERE at >= coalesce($5::timestamptz, '-infinity'::timestamptz)
        AND at <= coalesce($6::timestamptz, 'infinity'::timestamptz)
        AND (at, key, outcome) < (coalesce($7::timestamptz, 'infinity'::timestamptz), $8::text, $9::text)
        {scope}
    ORDER BY at DESC, key DESC, outcome DESC
    LIMIT $11::integer
), numbered AS (
    SELECT
        key, outcome, matches,
        row_number() OVER (ORDER BY at DESC, key DESC, outcome DESC) AS number,
        count(*) OVER () AS examined
    FROM examined
), found AS (
    SELECT key, outcome, matches, number, examined
    FROM numbered
    WHERE matches OR number = examined
    ORDER BY number
    LIMIT $10::integer
)
SELECT
    m.key, m.mail, m.at, m.address, m.kind, m.job_id, m.attempt, m.outcome, m.provider_id, m.reason,
    f.matches, f.number, f.examined
FROM found AS f
CROSS JOIN LATERAL (
    SELECT * FROM flowstate_daemon.mails AS row WHERE row.key = f.key AND row.outcome = f.outcome OFFSET 0
) AS m
ORDER BY f.number;

-- name: list_mail_attempts
-- All attempts of one email, in order.
-- $1 the email (text)
SELECT mail, kind, job_id, attempt, outcome, at, reason, provider_id, decisions, address
FROM flowstate_daemon.mails
WHERE key = ANY (SELECT $1::text || ':' || number FROM generate_series(0, 1000) AS number) AND mail = $1::text
ORDER BY at, attempt, outcome;

-- name: count_provider_events
-- How many events of each type the provider has reported since a time, and when the newest one happened.
-- $1 since (timestamptz)
SELECT type, count(*) AS count, max(at) AS newest_at
FROM flowstate_daemon.provider_events
WHERE at >= $1::timestamptz
GROUP BY type;

-- name: count_outcomes
-- How many emails had each outcome since a time.
-- $1 since (timestamptz)
SELECT outcome, count(*) AS count
FROM flowstate_daemon.mails
WHERE at >= $1::timestamptz
GROUP BY outcome;

-- name: count_scheduled_mails
-- What became of the scheduled emails of the last runs, by kind, zone and state.
-- $1 due since (timestamptz)
-- $2 due until (timestamptz)
SELECT kind, zone, local_date, state, reason, count(*) AS count, min(due_at) AS due_at
FROM flowstate_daemon.scheduled_mails
WHERE due_at BETWEEN $1::timestamptz AND $2::timestamptz
GROUP BY kind, zone, local_date, state, reason
ORDER BY kind, min(due_at), zone, state, count(*) DESC;
