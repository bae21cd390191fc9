"""Delivery: the only package that talks to the email provider."""

from importlib import import_module

from flowstate_daemon.base.imports import deferred

# The first import of the SDK decides. It needs `requests` for its synchronous client, which is never used here.
with deferred("requests"):
    import_module("resend")
