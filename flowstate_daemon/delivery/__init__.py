"""Delivery: the only room that speaks to the provider."""
