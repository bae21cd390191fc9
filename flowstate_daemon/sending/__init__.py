"""Sending: groups rendered emails into batches, stores requests, limits the rate and calls the provider."""
