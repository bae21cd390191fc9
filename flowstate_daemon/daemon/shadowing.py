"""The house in shadow mode: what is left out of the configuration, and what stands in the engine's place."""

from __future__ import annotations

from flowstate_daemon.base.config import Config
from flowstate_daemon.base.instruments import Instruments
from flowstate_daemon.base.shadow_metrics import ShadowMetrics
from flowstate_daemon.mail.catalogue import KINDS
from flowstate_daemon.mail.render import Renderer
from flowstate_daemon.queue.connection import Connection
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.onlooker import Onlooker
from flowstate_daemon.work.people import People
from flowstate_daemon.work.rehearsal import Rehearsal
from flowstate_daemon.work.shadow import Shadow

SHADOW_NAME = "flowstate-daemon-shadow"  # no worker's: tools that count workers must not find one


def is_shadow(config: Config) -> bool:
    return config.queue.mode == "shadow"


def in_its_mode(config: Config) -> Config:
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
    people: People | None,
    instruments: Instruments,
) -> Shadow | None:
    """None for a daemon that sends."""
    if not is_shadow(config):
        return None
    keys = Keys(config.queue.prefix, config.queue.name)
    onlooker = Onlooker(connection, keys, max_data_bytes=config.queue.max_data_bytes)
    rehearsal = Rehearsal(renderer, people, instruments.clock)
    metrics = ShadowMetrics(instruments.metrics, KINDS)
    return Shadow(onlooker, rehearsal, metrics, instruments.vitals.pulse("shadow"))
