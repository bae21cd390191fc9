-- What recipients have chosen on the preference page or through the API; read before the application's
-- `users.preferences`. NULL means: no choice. The kinds that they have switched off are in `unsubscribes`.
-- Compatible with every older version: none of them uses this table, and they leave the new columns NULL.

CREATE TABLE flowstate_daemon.preferences (
    address       text        PRIMARY KEY, -- normalised, an international domain in its xn-- form
    spelling      text        NOT NULL,    -- the same with the domain in Unicode, as the application may store it
    language      text,
    time_zone     text,
    morning_hour  smallint    CHECK (morning_hour BETWEEN 0 AND 23),
    overdue       text        CHECK (overdue IN ('daily', 'weekly')),
    paused_until  timestamptz,
    enabled_kinds text[]      NOT NULL DEFAULT '{}', -- switched on here, whatever the application's preferences say
    changed_at    timestamptz NOT NULL,
    moved_at      timestamptz -- when time zone or hour last changed: planners look for emails that this passed over
);
CREATE INDEX preferences_moved_at ON flowstate_daemon.preferences (moved_at);

ALTER TABLE flowstate_daemon.scheduled_mails
    ADD COLUMN covers_until timestamptz, -- end of the window of its data when it was planned
    ADD COLUMN fingerprint  text;        -- of the list of overdue tasks when it was checked
COMMENT ON COLUMN flowstate_daemon.scheduled_mails.task_id IS
    'empty: about all tasks of the user; after <instant>: about those due from then on, for a user who has moved west';
