-- What `check` asks of a server and of our schema in it. Needs no right to any table. Read by standing.py.

-- name: get_server_info
-- Who answers, and what this role may do. A pooler gives its clients another process id than the server's own.
SELECT
    current_setting('server_version') AS version,
    current_setting('server_version_num')::integer AS number,
    current_user::text AS role,
    current_database()::text AS database,
    pg_backend_pid() AS pid,
    pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean AS read_only,
    clock_timestamp() AS now,
    has_database_privilege(current_database(), 'CREATE') AS may_make_schema,
    has_schema_privilege(n.oid, 'USAGE') AS may_use,
    has_schema_privilege(n.oid, 'CREATE') AS may_create
FROM (SELECT) AS one
LEFT JOIN pg_catalog.pg_namespace AS n ON n.nspname = 'flowstate_daemon';

-- name: list_inaccessible_tables
-- Tables of our schema that this role may not fully use.
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
-- What a clock on the wall shows in a zone, as this server knows the zone.
-- $1 the zone's name (text)
-- $2 instants (timestamptz[])
SELECT array_agg(timezone($1, at) ORDER BY at) FROM unnest($2::timestamptz[]) AS given (at);
-- What the daemon may read of the application's tables. Read by rights.py.

-- name: get_table_access
-- One row for each column asked for, whether it is there and may be read; the catalogue is open to every role.
-- $1 the application's schema (text)
-- $2 tables, one for each column (text[])
-- $3 columns (text[])
SELECT
    asked.table_name,
    asked.column_name,
    current_user AS role,
    n.oid IS NOT NULL AS has_schema,
    coalesce(has_schema_privilege(n.oid, 'USAGE'), false) AS may_enter,
    c.oid IS NOT NULL AS has_table,
    a.attnum IS NOT NULL AS has_column,
    coalesce(has_column_privilege(c.oid, a.attnum, 'SELECT'), false) AS may_read
FROM unnest($2::text[], $3::text[]) AS asked (table_name, column_name)
LEFT JOIN pg_catalog.pg_namespace AS n ON n.nspname = $1::text
LEFT JOIN pg_catalog.pg_class AS c
    ON c.relnamespace = n.oid AND c.relname = asked.table_name AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
LEFT JOIN pg_catalog.pg_attribute AS a
    ON a.attrelid = c.oid AND a.attname = asked.column_name AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY asked.table_name, asked.column_name;
