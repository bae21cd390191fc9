"""Counts in the metrics what recipients and the provider send over HTTP; a part of the composition root."""

from __future__ import annotations

from flowstate_daemon.daemon.bootstrap import Components


def count_events(components: Components) -> None:
    """Connect the routes for the provider and for recipients, where there are any, to the metrics."""
    if components.webhooks is not None:
        components.webhooks.on_event = components.metrics.provider_event
    if components.unsubscribe is not None:
        components.unsubscribe.on_change = components.metrics.recipient_changed
