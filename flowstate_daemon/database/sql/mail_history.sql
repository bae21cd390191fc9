-- Reads of the ledger. Used by mail_history.py.

-- name: list_attempts
-- All attempts of the latest emails to one address: the latest email first, its attempts in order.
-- $1 address, normalised (text)
-- $2 maximum number of emails (integer)
WITH latest AS (
    SELECT mail, max(at) AS last_at
    FROM flowstate_daemon.mails
    WHERE address = $1::text
    GROUP BY mail
    ORDER BY last_at DESC, mail DESC
    LIMIT $2::integer
)
SELECT m.mail, m.kind, m.job_id, m.attempt, m.outcome, m.at, m.reason, m.provider_id, m.decisions
FROM latest JOIN flowstate_daemon.mails AS m ON m.mail = latest.mail AND m.address = $1::text
ORDER BY latest.last_at DESC, m.mail DESC, m.at, m.attempt, m.outcome;

-- name: list_mail_events
-- The events that the provider reported for these emails, in the order of their provider timestamps.
-- $1 the provider's ids (text[])
SELECT provider_id, type, at, reason
FROM flowstate_daemon.provider_events
WHERE provider_id = ANY ($1::text[])
ORDER BY at, svix_id;

-- name: get_mail_status
-- The delivery state and the flags of these emails.
-- $1 the provider's ids (text[])
SELECT provider_id, state, flags FROM flowstate_daemon.mail_status WHERE provider_id = ANY ($1::text[]);
