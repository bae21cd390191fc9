-- Which requests have contained which emails. Used by request_records.py; the prune queries by ledger.py. Members are
-- inserted in the order of their keys: two daemons that write the same rows then wait instead of deadlocking.

-- name: record_request
-- Record a request before its first try, with all its emails or none. Returns those that another request of the same or a
-- higher number has contained: Redis has lost that request. A request that was taken back (`free`) is not
-- recorded again. The highest number of an email is read in a subquery per email, so that the index is used whatever the
-- statistics say. Repeating the call changes nothing.
-- $1 id of the stored request (uuid)
-- $2 idempotency key (text)
-- $3 when it was stored (timestamptz)
-- $4 keys of the emails (text[])
-- $5 numbers (integer[])
WITH given AS MATERIALIZED (
    SELECT g.mail, latest.request,
        g.number, latest.number >= g.number AND (latest.request <> $1 OR latest.free) AS is_lost
    FROM unnest($4::text[], $5::integer[]) AS g (mail, number)
    LEFT JOIN LATERAL (
        SELECT m.number, m.request, m.free
        FROM flowstate_daemon.request_members AS m
        WHERE m.mail = g.mail
        ORDER BY m.number DESC
        LIMIT 1
    ) AS latest ON true
), request AS (
    INSERT INTO flowstate_daemon.requests (id, key, saved_at) VALUES ($1, $2, $3)
    ON CONFLICT (id) DO NOTHING
), written AS (
    INSERT INTO flowstate_daemon.request_members (mail, number, request, saved_at)
    SELECT mail, number, $1, $3 FROM given WHERE NOT EXISTS (SELECT FROM given WHERE is_lost) ORDER BY mail
    ON CONFLICT (mail, number) DO NOTHING
    RETURNING mail
)
SELECT g.mail
FROM given AS g
LEFT JOIN written AS w ON w.mail = g.mail
WHERE CASE
    WHEN EXISTS (SELECT FROM given WHERE is_lost) THEN g.is_lost
    ELSE w.mail IS NULL AND g.request IS DISTINCT FROM $1 -- another daemon was faster
END;

-- name: mark_resumed
-- A process is about to send a request that another one made. To be committed before the request is recorded again: from
-- then on its record cannot be withdrawn.
-- $1 id of the stored request (uuid)
-- $2 idempotency key (text)
-- $3 when it was stored (timestamptz)
INSERT INTO flowstate_daemon.requests (id, key, saved_at, resumed) VALUES ($1, $2, $3, true)
ON CONFLICT (id) DO UPDATE SET resumed = true;

-- name: find_latest_requests
-- The latest request of each email, and the provider's id if the ledger has it as sent. Emails without one have no row.
-- $1 keys of the emails (text[])
-- $2 addresses, normalised (text[])
SELECT g.mail, latest.number, latest.request, latest.saved_at, latest.free, r.key, (
    SELECT s.provider_id
    FROM flowstate_daemon.mails AS s
    WHERE s.address = g.address AND s.mail = g.mail AND s.outcome = 'sent'
    ORDER BY s.at DESC
    LIMIT 1
) AS provider_id
FROM unnest($1::text[], $2::text[]) AS g (mail, address)
CROSS JOIN LATERAL (
    SELECT m.number, m.request, m.saved_at, m.free
    FROM flowstate_daemon.request_members AS m
    WHERE m.mail = g.mail
    ORDER BY m.number DESC
    LIMIT 1
) AS latest
LEFT JOIN flowstate_daemon.requests AS r ON r.id = latest.request;

-- name: find_sent_mails
-- The provider's ids of those of these emails that the ledger has as sent.
-- $1 keys of the emails (text[])
-- $2 addresses, normalised (text[])
SELECT g.mail, latest.provider_id
FROM unnest($1::text[], $2::text[]) AS g (mail, address)
CROSS JOIN LATERAL (
    SELECT s.provider_id
    FROM flowstate_daemon.mails AS s
    WHERE s.address = g.address AND s.mail = g.mail AND s.outcome = 'sent'
    ORDER BY s.at DESC
    LIMIT 1
) AS latest;

-- name: forget_members
-- These emails were certainly not sent with this request. The rows stay: without them an email whose number Redis has
-- lost could get a lower one than another daemon is about to record.
-- $1 id of the stored request (uuid)
-- $2 keys of the emails (text[])
UPDATE flowstate_daemon.request_members SET free = true WHERE mail = ANY ($2::text[]) AND request = $1;

-- name: forget_withdrawn
-- The same for a request that the process which made it has not sent, unless another process may have. Returns whether the
-- emails are free. The lock on the request makes this statement and `mark_resumed` follow each other.
-- $1 id of the stored request (uuid)
-- $2 keys of the emails (text[])
WITH request AS (
    SELECT resumed FROM flowstate_daemon.requests WHERE id = $1 FOR UPDATE
), freed AS (
    UPDATE flowstate_daemon.request_members SET free = true
    WHERE mail = ANY ($2::text[]) AND request = $1 AND NOT EXISTS (SELECT FROM request WHERE resumed)
)
SELECT NOT EXISTS (SELECT FROM request WHERE resumed);

-- name: prune_requests
-- Delete one small batch of old requests; rows that another daemon is deleting are skipped.
-- $1 delete rows older than this (timestamptz)
-- $2 maximum number of rows (integer)
WITH deleted AS (
    DELETE FROM flowstate_daemon.requests WHERE id IN (
        SELECT id FROM flowstate_daemon.requests WHERE saved_at < $1::timestamptz
        ORDER BY saved_at LIMIT $2::integer FOR UPDATE SKIP LOCKED
    ) RETURNING 1
)
SELECT count(*) FROM deleted;

-- name: prune_request_members
-- The same for the emails of requests; without an order, because their index by time has none.
-- $1 delete rows older than this (timestamptz)
-- $2 maximum number of rows (integer)
WITH deleted AS (
    DELETE FROM flowstate_daemon.request_members WHERE (mail, number) IN (
        SELECT mail, number FROM flowstate_daemon.request_members WHERE saved_at < $1::timestamptz
        LIMIT $2::integer FOR UPDATE SKIP LOCKED
    ) RETURNING 1
)
SELECT count(*) FROM deleted;
