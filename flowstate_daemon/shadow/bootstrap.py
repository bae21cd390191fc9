"""Builds the shadow worker, which replaces the worker in shadow mode, and disables what shadow mode must not use."""

from __future__ import annotations

from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.config.loader import Config
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.shadow.dry_run import DryRun
from flowstate_daemon.shadow.metrics import ShadowMetrics
from flowstate_daemon.shadow.observer import QueueObserver
from flowstate_daemon.shadow.shadow import ShadowWorker
from flowstate_daemon.worker.lookups import RecipientLoader

SHADOW_NAME = "flowstate-daemon-shadow"  # not the name of a worker: tools that count workers must not find one


def is_shadow(config: Config) -> bool:
    return config.queue.mode == "shadow"


def apply_mode(config: Config) -> Config:
    """Without the provider's key and the schedules in shadow mode, so that their components are not built. Pure."""
    if not is_shadow(config):
        return config
    resend = config.resend.model_copy(update={"api_key": None})
    schedule = config.schedule.model_copy(update={"enabled": False})
    return config.model_copy(update={"resend": resend, "schedule": schedule})


def build_shadow(
    config: Config,
    connection: Connection,
    renderer: Renderer,
    recipients: RecipientLoader | None,
    context: ServiceContext,
) -> ShadowWorker | None:
    """None if the daemon is not in shadow mode."""
    if not is_shadow(config):
        return None
    keys = Keys(config.queue.prefix, config.queue.name)
    observer = QueueObserver(connection, keys, max_data_bytes=config.queue.max_data_bytes)
    dry_run = DryRun(renderer, recipients, context.clock)
    metrics = ShadowMetrics(context.metrics)
    return ShadowWorker(observer, dry_run, metrics, context.health.register(ShadowWorker.name))
