"""Basics used by every package: clock, cron, errors, health, logs, metrics, redaction, services."""
