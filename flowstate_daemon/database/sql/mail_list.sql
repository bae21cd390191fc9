-- Lists of the ledger for operators. Used by mail_list.py.

-- name: list_outcomes
-- Outcomes that match a filter, newest first; a null filter matches everything.
-- $1 kinds, or null (text[])
-- $2 outcomes, or null (text[])
-- $3 address, normalised, or null (text)
-- $4 text that the reason contains, or null (text)
-- $5 not before, or null (timestamptz)
-- $6 not after, or null (timestamptz)
-- $7 time of the last row of the page before, or null (timestamptz)
-- $8 key of that row (text)
-- $9 outcome of that row (text)
-- $10 maximum number of rows (integer)
SELECT key, mail, at, address, kind, job_id, attempt, outcome, provider_id, reason
FROM flowstate_daemon.mails
WHERE ($1::text[] IS NULL OR kind = ANY ($1::text[]))
    AND ($2::text[] IS NULL OR outcome = ANY ($2::text[]))
    AND ($3::text IS NULL OR address = $3::text)
    AND ($4::text IS NULL OR position(lower($4::text) IN lower(reason)) > 0)
    AND ($5::timestamptz IS NULL OR at >= $5::timestamptz)
    AND ($6::timestamptz IS NULL OR at <= $6::timestamptz)
    AND ($7::timestamptz IS NULL OR (at, key, outcome) < ($7::timestamptz, $8::text, $9::text))
ORDER BY at DESC, key DESC, outcome DESC
LIMIT $10::integer;

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
