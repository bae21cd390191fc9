#!/bin/sh
# Creates the daemon's role `mailer`, its schema, and the permission to read what the emails need; docker-compose.yml runs
# it at each start. Tables that the backend creates later are granted by the next start, or by
#   docker compose run --rm database-role
# Reads PGPASSWORD_FILE and MAILER_PASSWORD_FILE; the variables of psql say where the database is.
set -eu
left=120 # the first start of Postgres takes a while, and it may restart
until pg_isready --quiet; do
  left=$((left - 1))
  if [ "$left" = 0 ]; then
    echo "database-role: Postgres does not answer" >&2
    exit 1
  fi
  sleep 1
done
PGPASSWORD=$(cat "$PGPASSWORD_FILE")
export PGPASSWORD

# The password reaches the server as a variable, not on a command line.
psql --no-psqlrc --quiet --tuples-only --no-align --set=ON_ERROR_STOP=1 <<'SQL'
\set password `cat "$MAILER_PASSWORD_FILE"`
SET client_min_messages = warning;
SELECT 'CREATE ROLE mailer' WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'mailer') \gexec
ALTER ROLE mailer LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD :'password';

CREATE SCHEMA IF NOT EXISTS flowstate_daemon AUTHORIZATION mailer;
ALTER SCHEMA flowstate_daemon OWNER TO mailer;
-- Objects that an earlier version created as another role.
SELECT format('ALTER %s flowstate_daemon.%I OWNER TO mailer', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, relname)
FROM pg_class WHERE relnamespace = 'flowstate_daemon'::regnamespace AND relkind IN ('r', 'v')
  AND relowner <> 'mailer'::regrole \gexec

GRANT USAGE ON SCHEMA public TO mailer;
-- All columns that the emails need, without the users' passwords.
SELECT 'GRANT SELECT (id, email, "fullName", "isEmailVerified", preferences, "deletedAt") ON public.users TO mailer'
WHERE to_regclass('public.users') IS NOT NULL \gexec
SELECT format('GRANT SELECT ON public.%I TO mailer', name)
FROM unnest(ARRAY['tasks', 'projects', 'focus_sessions']) AS name
WHERE to_regclass(format('public.%I', name)) IS NOT NULL \gexec
SELECT 'database-role: table public.' || name || ' does not exist yet; run this again when it does, its emails wait until then'
FROM unnest(ARRAY['users', 'tasks', 'projects', 'focus_sessions']) AS name
WHERE to_regclass(format('public.%I', name)) IS NULL;
SQL
