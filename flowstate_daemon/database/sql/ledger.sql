-- Writes to the ledger. Used by ledger.py. Rows are inserted in the order of their keys: two daemons that write the
-- same rows then wait for each other instead of deadlocking.

-- name: write_mails
-- Insert outcomes idempotently, and end the scheduled emails that they belong to. An ended scheduled email keeps its
-- state, except that `sent` replaces any other outcome. One whose job an operator removed counts as skipped.
--
-- An email that was sent twice, with different provider ids, has two rows; the second id is appended to the key if the
-- attempt is the same. A second row with the same email and provider id is not written, whatever its attempt, nor is one
-- without an id ('' or 'accepted-earlier') beside another `sent` row: the email was sent once. If the row without an id is
-- the older one, it gets the id.
-- Returns the number of new outcomes.
-- $1 keys (text[])
-- $2 outcomes (text[])
-- $3 keys without the attempt (text[])
-- $4 Unix milliseconds (bigint[])
-- $5 addresses, normalised (text[])
-- $6 kinds (text[])
-- $7 job ids (text[])
-- $8 attempts (integer[])
-- $9 provider ids, or null (text[])
-- $10 reasons, or null (text[])
-- $11 lists of decisions (jsonb[])
WITH given AS MATERIALIZED (
    SELECT *, outcome = 'sent' AND provider_id IN ('', 'accepted-earlier') AS no_id
    FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[],
        $7::text[], $8::integer[], $9::text[], $10::text[], $11::jsonb[]
    ) AS given (key, outcome, mail, at_ms, address, kind, job_id, attempt, provider_id, reason, decisions)
), named AS (
    UPDATE flowstate_daemon.mails AS m
    SET provider_id = g.provider_id
    FROM given AS g
    WHERE m.provider_id IN ('', 'accepted-earlier') AND m.mail = g.mail AND m.outcome = 'sent'
        AND g.outcome = 'sent' AND NOT g.no_id
        AND NOT EXISTS (
            SELECT FROM flowstate_daemon.mails AS o
            WHERE o.provider_id IN ('', 'accepted-earlier', g.provider_id) AND o.mail = g.mail AND o.outcome = 'sent'
                AND o.key <> m.key
        )
    RETURNING m.mail, m.provider_id
), written AS (
    INSERT INTO flowstate_daemon.mails
        (key, outcome, mail, at, address, kind, job_id, attempt, provider_id, reason, decisions)
    SELECT
        key, outcome, mail, to_timestamp(at_ms / 1000.0), address, kind, job_id, attempt, provider_id, reason,
        decisions
    FROM given AS g
    WHERE CASE
        WHEN outcome <> 'sent' OR provider_id IS NULL THEN true
        WHEN no_id THEN
            NOT EXISTS (
                SELECT FROM given AS o
                WHERE o.mail = g.mail AND o.outcome = 'sent' AND (NOT o.no_id OR o.key < g.key)
            ) AND NOT EXISTS (
                SELECT FROM flowstate_daemon.mails AS m
                WHERE m.address = g.address AND m.mail = g.mail AND m.outcome = 'sent'
            )
        ELSE NOT EXISTS (SELECT FROM named AS n WHERE n.mail = g.mail AND n.provider_id = g.provider_id)
    END
    ORDER BY mail, key, outcome
    ON CONFLICT DO NOTHING
    RETURNING key, outcome, provider_id
), twice AS (
    INSERT INTO flowstate_daemon.mails
        (key, outcome, mail, at, address, kind, job_id, attempt, provider_id, reason, decisions)
    SELECT
        g.key || '#' || g.provider_id, g.outcome, g.mail, to_timestamp(g.at_ms / 1000.0), g.address, g.kind, g.job_id,
        g.attempt, g.provider_id, g.reason, g.decisions
    FROM given AS g
    LEFT JOIN written AS w ON w.key = g.key AND w.outcome = g.outcome
    WHERE g.outcome = 'sent' AND NOT g.no_id
        AND w.provider_id IS DISTINCT FROM g.provider_id
        AND coalesce(w.provider_id, (
            SELECT m.provider_id FROM flowstate_daemon.mails AS m WHERE m.key = g.key AND m.outcome = g.outcome
        )) NOT IN ('', 'accepted-earlier', g.provider_id)
    ON CONFLICT DO NOTHING
    RETURNING 1
), ends AS (
    SELECT DISTINCT ON (job_id) job_id, outcome, reason, at_ms
    FROM given
    WHERE job_id LIKE 'scheduled.%' AND outcome IN ('sent', 'skipped', 'failed', 'expired', 'removed')
    ORDER BY job_id, outcome = 'sent' DESC, at_ms DESC
), ending AS (
    SELECT m.id, e.outcome, e.reason, e.at_ms
    FROM flowstate_daemon.scheduled_mails AS m
    JOIN ends AS e ON e.job_id = m.job_id
    WHERE m.state IN ('planned', 'queued') OR (e.outcome = 'sent' AND m.state <> 'sent')
    ORDER BY m.id
    FOR UPDATE OF m
), ended AS (
    UPDATE flowstate_daemon.scheduled_mails AS m
    SET state = CASE e.outcome WHEN 'removed' THEN 'skipped' ELSE e.outcome END, reason = e.reason, ended_at = to_timestamp(e.at_ms / 1000.0), leased_until = NULL
    FROM ending AS e
    WHERE m.id = e.id
)
SELECT (SELECT count(*) FROM written) + (SELECT count(*) FROM twice);

-- name: insert_rejects
-- Keep journal entries that cannot be parsed or stored, each once.
-- $1 SHA-256 of the raw entries (bytea[])
-- $2 the raw entries, truncated (bytea[])
-- $3 why they were rejected (text[])
-- $4 now (timestamptz)
WITH written AS (
    INSERT INTO flowstate_daemon.journal_rejects (digest, raw, reason, at)
    SELECT digest, raw, reason, $4::timestamptz
    FROM unnest($1::bytea[], $2::bytea[], $3::text[]) AS given (digest, raw, reason)
    ORDER BY digest
    ON CONFLICT (digest) DO NOTHING
    RETURNING 1
)
SELECT count(*) FROM written;

-- name: insert_events
-- Insert provider events idempotently, and add the suppressions of new events in the same statement: a repeated event
-- does not restore a suppression that an operator has removed. A report is obeyed if the ledger has its email; a complaint
-- also if it is about our own sender, any other one also if the ledger has the address. Otherwise it is noted. Returns one
-- row for each new event, with whether it suppressed the address.
-- $1 webhook ids (text[])
-- $2 provider ids of the emails (text[])
-- $3 types (text[])
-- $4 Unix milliseconds (bigint[])
-- $5 addresses, normalised (text[])
-- $6 reasons, or null (text[])
-- $7 reasons to suppress the address, or null (text[])
-- $8 whether the email came from our own sender's domain (boolean[])
WITH given AS (
    SELECT DISTINCT ON (svix_id) *
    FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::boolean[])
        AS given (svix_id, provider_id, type, at_ms, address, reason, suppress, own_sender)
    ORDER BY svix_id
), judged AS (
    SELECT given.*, given.suppress IS NOT NULL AND given.address <> '' AND (
        EXISTS (SELECT FROM flowstate_daemon.mails AS m WHERE m.provider_id = given.provider_id)
        OR CASE given.suppress
            WHEN 'complained' THEN given.own_sender
            ELSE EXISTS (SELECT FROM flowstate_daemon.mails AS m WHERE m.address = given.address)
        END
    ) AS obeyed
    FROM given
), fresh AS (
    INSERT INTO flowstate_daemon.provider_events (svix_id, provider_id, type, at, address, reason, noted)
    SELECT
        svix_id, provider_id, type, to_timestamp(at_ms / 1000.0), address, reason,
        CASE WHEN NOT obeyed AND address <> '' THEN suppress END
    FROM judged
    ORDER BY svix_id
    ON CONFLICT (svix_id) DO NOTHING
    RETURNING svix_id, at
), suppressed AS (
    INSERT INTO flowstate_daemon.suppressions (address, reason, since, note)
    SELECT DISTINCT ON (judged.address, judged.suppress) judged.address, judged.suppress, fresh.at, judged.reason
    FROM fresh JOIN judged USING (svix_id)
    WHERE judged.obeyed
    ORDER BY judged.address, judged.suppress, fresh.at
    ON CONFLICT (address, reason) DO NOTHING
)
SELECT fresh.svix_id, judged.obeyed FROM fresh JOIN judged USING (svix_id);

-- name: obey_noted_events
-- Suppress the addresses of noted events whose emails the ledger has by now. Returns how many events that were.
-- $1 provider ids to look for, or null for all (text[])
WITH found AS (
    SELECT e.svix_id, e.address, e.noted, e.at, e.reason
    FROM flowstate_daemon.provider_events AS e
    WHERE e.noted IS NOT NULL
        AND ($1::text[] IS NULL OR e.provider_id = ANY ($1::text[]))
        AND EXISTS (SELECT FROM flowstate_daemon.mails AS m WHERE m.provider_id = e.provider_id)
    ORDER BY e.svix_id
    FOR UPDATE OF e
), obeyed AS (
    UPDATE flowstate_daemon.provider_events AS e SET noted = NULL FROM found WHERE e.svix_id = found.svix_id
), suppressed AS (
    INSERT INTO flowstate_daemon.suppressions (address, reason, since, note)
    SELECT DISTINCT ON (address, noted) address, noted, at, reason FROM found ORDER BY address, noted, at
    ON CONFLICT (address, reason) DO NOTHING
)
SELECT count(*) FROM found;

-- name: lift_provider_suppression
-- The provider delivers to an address again: remove what it reported before. Returns how many rows that were.
-- $1 address, normalised (text)
-- $2 Unix milliseconds of the report (bigint)
WITH lifted AS (
    DELETE FROM flowstate_daemon.suppressions
    WHERE address = $1::text AND reason = 'suppressed' AND since <= to_timestamp($2::bigint / 1000.0)
    RETURNING 1
)
SELECT count(*) FROM lifted;

-- name: prune_mails
-- Delete one small batch of old outcomes; rows that another daemon is deleting are skipped. The prune queries differ in
-- table, key and time only, but identifiers cannot be parameters.
-- $1 delete rows older than this (timestamptz)
-- $2 maximum number of rows (integer)
WITH deleted AS (
    DELETE FROM flowstate_daemon.mails WHERE (key, outcome) IN (
        SELECT key, outcome FROM flowstate_daemon.mails WHERE at < $1::timestamptz
        ORDER BY at LIMIT $2::integer FOR UPDATE SKIP LOCKED
    ) RETURNING 1
)
SELECT count(*) FROM deleted;

-- name: prune_events
-- The same for provider events.
-- $1 delete rows older than this (timestamptz)
-- $2 maximum number of rows (integer)
WITH deleted AS (
    DELETE FROM flowstate_daemon.provider_events WHERE svix_id IN (
        SELECT svix_id FROM flowstate_daemon.provider_events WHERE at < $1::timestamptz
        ORDER BY at LIMIT $2::integer FOR UPDATE SKIP LOCKED
    ) RETURNING 1
)
SELECT count(*) FROM deleted;

-- name: prune_rejects
-- The same for rejected journal entries.
-- $1 delete rows older than this (timestamptz)
-- $2 maximum number of rows (integer)
WITH deleted AS (
    DELETE FROM flowstate_daemon.journal_rejects WHERE digest IN (
        SELECT digest FROM flowstate_daemon.journal_rejects WHERE at < $1::timestamptz
        ORDER BY at LIMIT $2::integer FOR UPDATE SKIP LOCKED
    ) RETURNING 1
)
SELECT count(*) FROM deleted;

-- name: prune_operator_actions
-- The same for actions of operators.
-- $1 delete rows older than this (timestamptz)
-- $2 maximum number of rows (integer)
WITH deleted AS (
    DELETE FROM flowstate_daemon.operator_actions WHERE id IN (
        SELECT id FROM flowstate_daemon.operator_actions WHERE at < $1::timestamptz
        ORDER BY at LIMIT $2::integer FOR UPDATE SKIP LOCKED
    ) RETURNING 1
)
SELECT count(*) FROM deleted;
