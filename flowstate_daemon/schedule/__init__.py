"""Schedule: the calendar. Who gets which mail when, planned in Postgres and fed into the queue at the last moment."""
