"""Mail: what a mail is. Pure: no room here does I/O after start."""
