-- Facts about the server, our schema, and access to the application's tables. Used by server_info.py.
-- None of these queries needs a privilege on any table.

-- name: get_server_info
-- Server version, role and privileges. Behind a pooler the backend's process id differs from the client's.
SELECT
    current_setting('server_version') AS version,
    current_setting('server_version_num')::integer AS number,
    current_user::text AS role,
    current_database()::text AS database,
    pg_backend_pid() AS pid,
    pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean AS read_only,
    clock_timestamp() AS now,
    has_database_privilege(current_database(), 'CREATE') AS can_create_schema,
    has_schema_privilege(n.oid, 'USAGE') AS may_use,
    has_schema_privilege(n.oid, 'CREATE') AS may_create
FROM (SELECT) AS one
LEFT JOIN pg_catalog.pg_namespace AS n ON n.nspname = 'flowstate_daemon';

-- name: get_time
-- The wall time of the server.
SELECT clock_timestamp();

-- name: list_inaccessible_tables
-- Tables of our schema on which this role lacks a privilege.
SELECT c.relname::text AS name
FROM pg_catalog.pg_class AS c
JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE
    n.nspname = 'flowstate_daemon'
    AND c.relkind IN ('r', 'p')
    AND NOT (
        has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
        AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')
    )
ORDER BY c.relname;

-- name: get_local_times
-- Local times in a time zone, by the server's time zone data.
-- $1 name of the time zone (text)
-- $2 instants (timestamptz[])
SELECT array_agg(timezone($1, at) ORDER BY at) FROM unnest($2::timestamptz[]) AS given (at);

-- name: get_table_access
-- For each requested column: whether it exists and may be read. Every role may read the catalogue.
-- $1 the application's schema (text)
-- $2 tables, one for each column (text[])
-- $3 columns (text[])
SELECT
    requested.table_name,
    requested.column_name,
    current_user AS role,
    n.oid IS NOT NULL AS has_schema,
    coalesce(has_schema_privilege(n.oid, 'USAGE'), false) AS may_use_schema,
    c.oid IS NOT NULL AS has_table,
    a.attnum IS NOT NULL AS has_column,
    coalesce(has_column_privilege(c.oid, a.attnum, 'SELECT'), false) AS may_read
FROM unnest($2::text[], $3::text[]) AS requested (table_name, column_name)
LEFT JOIN pg_catalog.pg_namespace AS n ON n.nspname = $1::text
LEFT JOIN pg_catalog.pg_class AS c
    ON c.relnamespace = n.oid AND c.relname = requested.table_name AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
LEFT JOIN pg_catalog.pg_attribute AS a
    ON a.attrelid = c.oid AND a.attname = requested.column_name AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY requested.table_name, requested.column_name;
