-- Bounces and complaints about emails that are not known to be ours are noted, not obeyed: the provider's account may also
-- send for others. `noted` is the reason to suppress the address as soon as the ledger has the email. The new reason
-- `suppressed`: the provider itself no longer delivers to the address.
-- Compatible with every older version: none of them reads the column, and they treat any reason as a suppression.

ALTER TABLE flowstate_daemon.provider_events ADD COLUMN noted text;
CREATE INDEX provider_events_noted ON flowstate_daemon.provider_events (provider_id) WHERE noted IS NOT NULL;

ALTER TABLE flowstate_daemon.suppressions DROP CONSTRAINT suppressions_reason_check;
ALTER TABLE flowstate_daemon.suppressions
    ADD CONSTRAINT suppressions_reason_check CHECK (reason IN ('bounced', 'complained', 'manual', 'suppressed'));
