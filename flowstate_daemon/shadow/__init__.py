"""Shadow mode: predicts what the daemon would send and compares it with what another worker did."""
