"""npm bull 4.16.5 beside the daemon: each claim of compatibility, tried on the real parts."""
