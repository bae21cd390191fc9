"""The scheduler: plans scheduled emails, enqueues them and reconciles them with the queue."""
