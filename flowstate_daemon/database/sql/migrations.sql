-- How the schema of our own comes about. Read by migrate.py.

-- name: lock_migrations
-- One migrator at a time. The lock ends with the transaction, so that it also holds through a pooler.
-- $1 the lock's number (bigint)
SELECT pg_advisory_xact_lock($1);

-- name: find_schema
-- Whether the schema and its list of migrations are there; looking needs no right to either.
SELECT
    EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'flowstate_daemon') AS has_schema,
    EXISTS (
        SELECT FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = 'flowstate_daemon' AND c.relname = 'migrations'
    ) AS has_migrations;

-- name: create_schema
-- Needs CREATE on the database, even with IF NOT EXISTS: not asked for where an administrator has made the schema.
CREATE SCHEMA flowstate_daemon;

-- name: create_migrations
-- The list of what was applied.
CREATE TABLE flowstate_daemon.migrations (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: list_migrations
-- What was applied, in order.
SELECT version, name, checksum FROM flowstate_daemon.migrations ORDER BY version;

-- name: record_migration
-- Written in the transaction of the migration itself.
-- $1 version (integer)
-- $2 name (text)
-- $3 SHA-256 of its file, in hex (text)
INSERT INTO flowstate_daemon.migrations (version, name, checksum) VALUES ($1, $2, $3);
