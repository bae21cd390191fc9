"""Delivery: the only package that talks to the email provider."""
