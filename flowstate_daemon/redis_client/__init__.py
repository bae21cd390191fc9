"""The Redis client: connection, discovery, scripts, keys, server information and permissions."""
