-- Creates and migrates the daemon's own schema. Used by migrations.py.

-- name: lock_migrations
-- Allow one migrator at a time. The lock ends with the transaction, so it also works through a connection pooler.
-- $1 the lock's number (bigint)
SELECT pg_advisory_xact_lock($1);

-- name: find_schema
-- Whether the schema and its table of migrations exist; the query needs no privilege on either.
SELECT
    EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'flowstate_daemon') AS has_schema,
    EXISTS (
        SELECT FROM pg_catalog.pg_class AS c
        JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
        WHERE n.nspname = 'flowstate_daemon' AND c.relname = 'migrations'
    ) AS has_migrations;

-- name: create_schema
-- Needs CREATE on the database, even with IF NOT EXISTS: not run when an administrator has created the schema.
CREATE SCHEMA flowstate_daemon;

-- name: create_migrations
-- The table of applied migrations.
CREATE TABLE flowstate_daemon.migrations (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);

-- name: list_migrations
-- The applied migrations, in order.
SELECT version, name, checksum FROM flowstate_daemon.migrations ORDER BY version;

-- name: record_migration
-- Runs in the same transaction as the migration itself.
-- $1 version (integer)
-- $2 name (text)
-- $3 SHA-256 of its file, in hex (text)
INSERT INTO flowstate_daemon.migrations (version, name, checksum) VALUES ($1, $2, $3);
