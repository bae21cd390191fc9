-- What the daemon may read of the application's tables. Read by rights.py.

-- name: tell_rights
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
