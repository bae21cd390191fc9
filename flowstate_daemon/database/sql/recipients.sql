-- Who gets no mail. Addresses come normalised. Read by suppression.py.

-- name: list_suppressions
-- One page, by address.
-- $1 the address of the row after which the page begins, or '' (text)
-- $2 the reason of that row, or '' (text)
-- $3 how many at most (integer)
SELECT address, reason, since, note
FROM flowstate_daemon.suppressions
WHERE (address, reason) > ($1::text, $2::text)
ORDER BY address, reason
LIMIT $3::integer;

-- name: find_suppressions
-- Everything that stands against one address.
-- $1 address (text)
SELECT address, reason, since, note FROM flowstate_daemon.suppressions WHERE address = $1::text ORDER BY reason;

-- name: add_suppression
-- The first of its reason stays.
-- $1 address (text)
-- $2 reason (text)
-- $3 since (timestamptz)
-- $4 note, or null (text)
INSERT INTO flowstate_daemon.suppressions (address, reason, since, note)
VALUES ($1, $2, $3, $4)
ON CONFLICT (address, reason) DO NOTHING
RETURNING true;

-- name: remove_suppressions
-- An address may be written to again, whatever stood against it.
-- $1 address (text)
DELETE FROM flowstate_daemon.suppressions WHERE address = $1::text RETURNING reason;

-- name: add_unsubscribe
-- Once is enough.
-- $1 address (text)
-- $2 kind, or * (text)
-- $3 since (timestamptz)
INSERT INTO flowstate_daemon.unsubscribes (address, kind, since)
VALUES ($1, $2, $3)
ON CONFLICT (address, kind) DO NOTHING
RETURNING true;

-- name: remove_unsubscribes
-- The way back: from one kind, or with * from all.
-- $1 address (text)
-- $2 kind, or * (text)
DELETE FROM flowstate_daemon.unsubscribes
WHERE address = $1::text AND ($2::text = '*' OR kind = $2::text)
RETURNING kind;

-- name: get_recipient_status
-- What stands against each of these people; everybody asked for has a row.
-- $1 addresses (text[])
SELECT
    asked.address,
    ARRAY(SELECT s.reason FROM flowstate_daemon.suppressions AS s WHERE s.address = asked.address) AS suppressed,
    ARRAY(SELECT u.kind FROM flowstate_daemon.unsubscribes AS u WHERE u.address = asked.address) AS unsubscribed
FROM (SELECT DISTINCT unnest($1::text[]) AS address) AS asked;
-- In which language people want to be written to. The application's table, only read. Read by languages.py.

-- name: get_user_languages
-- What these people have chosen, whatever else their preferences hold; who has chosen nothing has no row.
-- $1 addresses as the application may have stored them (text[])
SELECT email, left(preferences ->> 'language', 64) AS language
FROM users
WHERE email = ANY($1::text[]) AND preferences ->> 'language' IS NOT NULL;
