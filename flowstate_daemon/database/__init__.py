"""All access to Postgres: reads the application's tables, and writes only to the daemon's own schema."""
