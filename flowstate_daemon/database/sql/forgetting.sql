-- What Postgres holds about one recipient. Used by forgetting.py. Each deletion is one batch.

-- name: count_recipient
-- How many rows each table holds.
-- $1 spellings of the address, in lower case (text[])
-- $2 regular expression that finds one of the spellings as a whole address (text)
SELECT
    (SELECT count(*) FROM flowstate_daemon.mails WHERE address = ANY ($1::text[])) AS mails,
    (
        SELECT count(*) FROM flowstate_daemon.provider_events AS e
        WHERE e.address = ANY ($1::text[]) OR e.provider_id IN (
            SELECT m.provider_id FROM flowstate_daemon.mails AS m WHERE m.address = ANY ($1::text[]) AND m.provider_id IS NOT NULL
        )
    ) AS provider_events,
    (
        SELECT count(*) FROM flowstate_daemon.journal_rejects WHERE lower(encode(raw, 'escape')) ~ $2::text
    ) AS journal_rejects,
    (SELECT count(*) FROM flowstate_daemon.operator_actions WHERE target = ANY ($1::text[])) AS operator_actions,
    (SELECT count(*) FROM flowstate_daemon.preferences WHERE address = ANY ($1::text[])) AS preferences,
    (SELECT count(*) FROM flowstate_daemon.suppressions WHERE address = ANY ($1::text[])) AS suppressions,
    (SELECT count(*) FROM flowstate_daemon.unsubscribes WHERE address = ANY ($1::text[])) AS unsubscribes;

-- name: forget_provider_events
-- Delete one batch of the provider's events; before the emails, whose ids lead to them.
-- $1 spellings (text[])
-- $2 maximum number of rows (integer)
WITH deleted AS (
    DELETE FROM flowstate_daemon.provider_events WHERE svix_id IN (
        SELECT e.svix_id FROM flowstate_daemon.provider_events AS e
        WHERE e.address = ANY ($1::text[]) OR e.provider_id IN (
            SELECT m.provider_id FROM flowstate_daemon.mails AS m WHERE m.address = ANY ($1::text[]) AND m.provider_id IS NOT NULL
        )
        LIMIT $2::integer
    ) RETURNING 1
)
SELECT count(*) FROM deleted;

-- name: forget_mails
-- Delete one batch of outcomes.
-- $1 spellings (text[])
-- $2 maximum number of rows (integer)
WITH deleted AS (
    DELETE FROM flowstate_daemon.mails WHERE (key, outcome) IN (
        SELECT key, outcome FROM flowstate_daemon.mails WHERE address = ANY ($1::text[]) LIMIT $2::integer
    ) RETURNING 1
)
SELECT count(*) FROM deleted;

-- name: forget_journal_rejects
-- Delete one batch of rejected journal entries that contain the address. What is not JSON is kept there, so it is text.
-- $1 regular expression that finds one of the spellings as a whole address (text)
-- $2 maximum number of rows (integer)
WITH deleted AS (
    DELETE FROM flowstate_daemon.journal_rejects WHERE digest IN (
        SELECT digest FROM flowstate_daemon.journal_rejects WHERE lower(encode(raw, 'escape')) ~ $1::text
        LIMIT $2::integer
    ) RETURNING 1
)
SELECT count(*) FROM deleted;

-- name: forget_operator_actions
-- Remove the address from one batch of actions; that they happened stays known.
-- $1 spellings (text[])
-- $2 maximum number of rows (integer)
WITH changed AS (
    UPDATE flowstate_daemon.operator_actions SET target = 'a forgotten address' WHERE id IN (
        SELECT id FROM flowstate_daemon.operator_actions WHERE target = ANY ($1::text[]) LIMIT $2::integer
    ) RETURNING 1
)
SELECT count(*) FROM changed;

-- name: forget_preferences
-- Delete what the recipient has chosen, a pause included; the unsubscribes are in a table of their own.
-- $1 spellings (text[])
-- $2 maximum number of rows (integer)
WITH deleted AS (
    DELETE FROM flowstate_daemon.preferences WHERE address IN (
        SELECT address FROM flowstate_daemon.preferences WHERE address = ANY ($1::text[]) LIMIT $2::integer
    ) RETURNING 1
)
SELECT count(*) FROM deleted;

-- name: forget_suppressions
-- Delete the suppressions; with a pseudonym keep them under it, without the note.
-- $1 spellings (text[])
-- $2 pseudonym, or null (text)
WITH deleted AS (
    DELETE FROM flowstate_daemon.suppressions WHERE address = ANY ($1::text[]) RETURNING reason, since
), kept AS (
    INSERT INTO flowstate_daemon.suppressions (address, reason, since)
    SELECT $2::text, reason, min(since) FROM deleted WHERE $2::text IS NOT NULL GROUP BY reason
    ON CONFLICT (address, reason) DO NOTHING
)
SELECT count(*) FROM deleted;

-- name: forget_unsubscribes
-- Delete the unsubscribes; with a pseudonym keep them under it.
-- $1 spellings (text[])
-- $2 pseudonym, or null (text)
WITH deleted AS (
    DELETE FROM flowstate_daemon.unsubscribes WHERE address = ANY ($1::text[]) RETURNING kind, since
), kept AS (
    INSERT INTO flowstate_daemon.unsubscribes (address, kind, since)
    SELECT $2::text, kind, min(since) FROM deleted WHERE $2::text IS NOT NULL GROUP BY kind
    ON CONFLICT (address, kind) DO NOTHING
)
SELECT count(*) FROM deleted;
