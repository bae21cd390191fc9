-- Suppressions, unsubscribes and languages of recipients. Used by recipients.py; addresses are normalised there,
-- except those of the users' languages.

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

-- name: remove_unsubscribes
-- Undo unsubscribes: of one kind, or with * of all.
-- $1 the address and its pseudonyms (text[])
-- $2 kind, or * (text)
DELETE FROM flowstate_daemon.unsubscribes
WHERE address = ANY ($1::text[]) AND ($2::text = '*' OR kind = $2::text)
RETURNING kind;

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
-- The suppressions and unsubscribes of each address; every requested address has a row.
-- $1 addresses (text[])
SELECT
    requested.address,
    ARRAY(SELECT s.reason FROM flowstate_daemon.suppressions AS s WHERE s.address = requested.address) AS suppressed,
    ARRAY(SELECT u.kind FROM flowstate_daemon.unsubscribes AS u WHERE u.address = requested.address) AS unsubscribed
FROM (SELECT DISTINCT unnest($1::text[]) AS address) AS requested;
-- name: get_user_languages
-- The language in each user's preferences, or null, read from the application's table.
-- $1 addresses in the spellings that the application may have stored (text[])
SELECT email, left(preferences ->> 'language', 64) AS language
FROM {app}.users
WHERE email = ANY($1::text[]);

-- name: find_user_languages
-- The same for addresses that are stored in other capitals. Reads the whole table without an index on lower(email).
-- $1 addresses in lower case (text[])
SELECT email, left(preferences ->> 'language', 64) AS language
FROM {app}.users
WHERE lower(email) = ANY($1::text[]);

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
