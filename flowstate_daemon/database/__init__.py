"""Database: the only room that speaks Postgres. It reads what the application owns, and writes only what is ours."""
