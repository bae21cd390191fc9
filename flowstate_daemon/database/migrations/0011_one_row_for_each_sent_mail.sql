-- An email has one row for each provider id and outcome: when Redis has lost that an attempt had succeeded, a later attempt
-- sends the same request again, and the provider answers with the same id. Earlier versions wrote a second row then; the
-- first one stays. The index still finds emails by the provider's id. Compatible with every older version: beside a newer
-- one its second row goes to `journal_rejects`.

DELETE FROM flowstate_daemon.mails AS m
USING flowstate_daemon.mails AS earlier
WHERE earlier.provider_id = m.provider_id AND earlier.mail = m.mail AND earlier.outcome = m.outcome
    AND (earlier.at, earlier.key) < (m.at, m.key);

DROP INDEX flowstate_daemon.mails_provider_id;
CREATE UNIQUE INDEX mails_provider_id ON flowstate_daemon.mails (provider_id, mail, outcome)
    WHERE provider_id IS NOT NULL;
