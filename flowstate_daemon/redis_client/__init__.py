"""The Redis client: connection, discovery, scripts, keys, server information and permissions."""

from importlib import import_module

from flowstate_daemon.base.imports import without

# The first import of the library decides. It loads the SDK of OpenTelemetry, where that is installed, for metrics that
# this daemon does not ask for; its own traces import what they need.
with without("opentelemetry"):
    import_module("redis.asyncio")
