-- An email has one row for each provider id and outcome. After a failover Redis may not know that an attempt has succeeded;
-- the next one sends the same request again, and the provider answers with the same id. Earlier versions wrote a second row
-- then; the first one stays. The index still finds emails by the provider's id. Compatible with every older version: older
-- daemons can run beside newer ones, and a second row that they try to write goes to `journal_rejects`.

-- Readers go on. Writers wait, so that none adds a second row before the index exists.
LOCK TABLE flowstate_daemon.mails IN SHARE ROW EXCLUSIVE MODE;

-- Of two rows of an email with the same id, at least one is not about the first attempt.
DELETE FROM flowstate_daemon.mails AS m
USING (
    SELECT DISTINCT provider_id FROM flowstate_daemon.mails WHERE attempt > 1 AND provider_id IS NOT NULL
) AS repeated, flowstate_daemon.mails AS earlier
WHERE m.provider_id = repeated.provider_id AND earlier.provider_id = m.provider_id
    AND earlier.mail = m.mail AND earlier.outcome = m.outcome AND (earlier.at, earlier.key) < (m.at, m.key);

CREATE UNIQUE INDEX mails_provider_id_mail ON flowstate_daemon.mails (provider_id, mail, outcome)
    WHERE provider_id IS NOT NULL;
DROP INDEX flowstate_daemon.mails_provider_id;
ALTER INDEX flowstate_daemon.mails_provider_id_mail RENAME TO mails_provider_id;
