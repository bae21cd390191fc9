-- The trace of what operators do to the lists of recipients: who, what, how many, when. Actions on the queue leave theirs
-- in Redis, because those commands work without Postgres.
-- Compatible with every older version: none of them uses this table.

CREATE TABLE flowstate_daemon.operator_actions (
    id     bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     timestamptz NOT NULL,
    actor  text        NOT NULL,
    action text        NOT NULL,
    target text        NOT NULL, -- the address, normalised
    count  integer     NOT NULL  -- how many rows it changed
);
CREATE INDEX operator_actions_at ON flowstate_daemon.operator_actions (at);
