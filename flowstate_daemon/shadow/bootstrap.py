"""The house in shadow mode: what is left out of the configuration, and what stands in the engine's place."""

from __future__ import annotations

from flowstate_daemon.base.service import ServiceContext
from flowstate_daemon.config.loader import Config
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.shadow.dry_run import DryRun
from flowstate_daemon.shadow.metrics import ShadowMetrics
from flowstate_daemon.shadow.observer import QueueObserver
from flowstate_daemon.shadow.shadow import ShadowWorker
from flowstate_daemon.worker.lookups import RecipientLoader

SHADOW_NAME = "flowstate-daemon-shadow"  # no worker's: tools that count workers must not find one


def is_shadow(config: Config) -> bool:
    return config.queue.mode == "shadow"


def apply_mode(config: Config) -> Config:
    """What a mode rules out is not even built: a shadow has neither the provider's key nor a calendar. Pure."""
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
    """None for a daemon that sends."""
    if not is_shadow(config):
        return None
    keys = Keys(config.queue.prefix, config.queue.name)
    observer = QueueObserver(connection, keys, max_data_bytes=config.queue.max_data_bytes)
    dry_run = DryRun(renderer, recipients, context.clock)
    metrics = ShadowMetrics(context.metrics, KINDS)
    return ShadowWorker(observer, dry_run, metrics, context.health.register("shadow"))
