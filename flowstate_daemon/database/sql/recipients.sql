-- Suppressions, unsubscribes and preferences of recipients. Used by recipients.py and preferences.py; addresses are
-- normalised there, except those of the application's users.

-- name: list_suppressions
-- One page of suppressions, ordered by address.
-- $1 the address of the row after which the page begins, or '' (text)
-- $2 the reason of that row, or '' (text)
-- $3 maximum number of rows (integer)
SELECT address, reason, since, note
FROM flowstate_daemon.suppressions
WHERE (address, reason) > ($1::text, $2::text)
ORDER BY address, reason
LIMIT $3::integer;

-- name: find_suppressions
-- All suppressions of one address.
-- $1 the address and its pseudonyms (text[])
SELECT address, reason, since, note FROM flowstate_daemon.suppressions WHERE address = ANY ($1::text[]) ORDER BY reason;

-- name: add_suppression
-- Add a suppression; an existing one with the same reason is kept.
-- $1 address (text)
-- $2 reason (text)
-- $3 since (timestamptz)
-- $4 note, or null (text)
INSERT INTO flowstate_daemon.suppressions (address, reason, since, note)
VALUES ($1, $2, $3, $4)
ON CONFLICT (address, reason) DO NOTHING
RETURNING true;

-- name: remove_suppressions
-- Remove all suppressions of an address and return their reasons.
-- $1 the address and its pseudonyms (text[])
DELETE FROM flowstate_daemon.suppressions WHERE address = ANY ($1::text[]) RETURNING reason;

-- name: add_unsubscribe
-- Unsubscribe an address from a kind; repeating it changes nothing.
-- $1 address (text)
-- $2 kind, or * (text)
-- $3 since (timestamptz)
INSERT INTO flowstate_daemon.unsubscribes (address, kind, since)
VALUES ($1, $2, $3)
ON CONFLICT (address, kind) DO NOTHING
RETURNING true;

-- name: remove_unsubscribe
-- Undo one unsubscribe. Undoing * leaves the kinds that were unsubscribed one by one.
-- $1 the address and its pseudonyms (text[])
-- $2 kind, or * (text)
DELETE FROM flowstate_daemon.unsubscribes
WHERE address = ANY ($1::text[]) AND kind = $2::text
RETURNING true;

-- name: remove_unsubscribes
-- Undo the unsubscribes of one kind, or with * of all kinds.
-- $1 the address and its pseudonyms (text[])
-- $2 kind, or * (text)
DELETE FROM flowstate_daemon.unsubscribes
WHERE address = ANY ($1::text[]) AND ($2::text = '*' OR kind = $2::text)
RETURNING kind;

-- name: replace_unsubscribes
-- Make the unsubscribes of an address exactly these; those that stay keep their date.
-- $1 the address and its pseudonyms (text[])
-- $2 kinds, or * (text[])
-- $3 since (timestamptz)
-- $4 address (text)
WITH removed AS (
    DELETE FROM flowstate_daemon.unsubscribes WHERE address = ANY ($1::text[]) AND kind <> ALL ($2::text[])
)
INSERT INTO flowstate_daemon.unsubscribes (address, kind, since)
SELECT $4::text, k.kind, $3::timestamptz FROM unnest($2::text[]) AS k (kind)
WHERE NOT EXISTS (SELECT FROM flowstate_daemon.unsubscribes AS u WHERE u.address = ANY ($1::text[]) AND u.kind = k.kind)
ON CONFLICT (address, kind) DO NOTHING;

-- name: save_preferences
-- Replace the preferences of an address.
-- $1 address (text)
-- $2 the address with its domain in Unicode (text)
-- $3 language, or null (text)
-- $4 time zone, or null (text)
-- $5 hour of the morning emails, or null (smallint)
-- $6 cadence of overdue summaries, or null (text)
-- $7 end of the pause, or null (timestamptz)
-- $8 kinds that were switched on (text[])
-- $9 now (timestamptz)
INSERT INTO flowstate_daemon.preferences AS p (
    address, spelling, language, time_zone, morning_hour, overdue, paused_until, enabled_kinds, changed_at, moved_at
)
VALUES (
    $1::text, $2::text, $3::text, $4::text, $5::smallint, $6::text, $7::timestamptz, $8::text[], $9::timestamptz,
    CASE WHEN $4::text IS NOT NULL OR $5::smallint IS NOT NULL THEN $9::timestamptz END
)
ON CONFLICT (address) DO UPDATE SET
    spelling = excluded.spelling, language = excluded.language, time_zone = excluded.time_zone,
    morning_hour = excluded.morning_hour, overdue = excluded.overdue, paused_until = excluded.paused_until,
    enabled_kinds = excluded.enabled_kinds, changed_at = excluded.changed_at,
    moved_at = CASE
        WHEN (p.time_zone, p.morning_hour) IS DISTINCT FROM (excluded.time_zone, excluded.morning_hour)
        THEN $9::timestamptz ELSE p.moved_at
    END;

-- name: list_unsubscribes
-- One page of unsubscribes, ordered by address and kind.
-- $1 the address of the row after which the page begins, or '' (text)
-- $2 the kind of that row, or '' (text)
-- $3 maximum number of rows (integer)
SELECT address, kind, since
FROM flowstate_daemon.unsubscribes
WHERE (address, kind) > ($1::text, $2::text)
ORDER BY address, kind
LIMIT $3::integer;

-- name: find_unsubscribes
-- All unsubscribes of one address.
-- $1 the address and its pseudonyms (text[])
SELECT address, kind, since FROM flowstate_daemon.unsubscribes WHERE address = ANY ($1::text[]) ORDER BY kind;

-- name: get_recipient_status
-- The suppressions, unsubscribes and preferences of each address; every requested address has a row.
-- $1 addresses (text[])
SELECT
    requested.address,
    ARRAY(SELECT s.reason FROM flowstate_daemon.suppressions AS s WHERE s.address = requested.address) AS suppressed,
    ARRAY(SELECT u.kind FROM flowstate_daemon.unsubscribes AS u WHERE u.address = requested.address) AS unsubscribed,
    p.language, p.time_zone, p.morning_hour, p.overdue, p.paused_until, p.enabled_kinds
FROM (SELECT DISTINCT unnest($1::text[]) AS address) AS requested
LEFT JOIN flowstate_daemon.preferences AS p ON p.address = requested.address;

-- name: get_user_preferences
-- What is in the application's own preferences, for every user with one of these addresses. They may be any JSON, as in
-- get_users.
-- $1 addresses in the spellings that the application may have stored (text[])
-- $2 names of the notification preferences (text[])
SELECT
    email, left(preferences ->> 'language', 64) AS language, left(preferences ->> 'timezone', 64) AS zone,
    CASE
        WHEN preferences ->> 'notifications' = 'false' THEN $2::text[]
        ELSE ARRAY(
            SELECT n.name
            FROM unnest($2::text[]) AS n (name)
            WHERE lower(preferences #>> ARRAY['notifications', n.name]) = 'false'
        )
    END AS refused
FROM {app}.users
WHERE email = ANY ($1::text[]);

-- name: find_user_preferences
-- The same for addresses that are stored in other capitals. Reads the whole table without an index on lower(email).
-- $1 addresses in lower case (text[])
-- $2 names of the notification preferences (text[])
SELECT
    email, left(preferences ->> 'language', 64) AS language, left(preferences ->> 'timezone', 64) AS zone,
    CASE
        WHEN preferences ->> 'notifications' = 'false' THEN $2::text[]
        ELSE ARRAY(
            SELECT n.name
            FROM unnest($2::text[]) AS n (name)
            WHERE lower(preferences #>> ARRAY['notifications', n.name]) = 'false'
        )
    END AS refused
FROM {app}.users
WHERE lower(email) = ANY ($1::text[]);

-- name: record_operator_action
-- Record what an operator did.
-- $1 now (timestamptz)
-- $2 who (text)
-- $3 what (text)
-- $4 address (text)
-- $5 how many rows it changed (integer)
INSERT INTO flowstate_daemon.operator_actions (at, actor, action, target, count) VALUES ($1, $2, $3, $4, $5);

-- name: list_operator_actions
-- The newest actions, newest first.
-- $1 maximum number of rows (integer)
-- $2 only actions with one of these words at the beginning (text[])
SELECT at, actor, action, target, count
FROM flowstate_daemon.operator_actions
WHERE split_part(action, ' ', 1) = ANY ($2::text[])
ORDER BY at DESC, id DESC
LIMIT $1::integer;
