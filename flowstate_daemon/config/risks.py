"""Settings that are valid, but with which emails go wrong or bounces are not reported. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from flowstate_daemon.base.risks import Risk
from flowstate_daemon.config.loader import Config

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "::1"})  # noqa: S104 - compared, not bound


def find_risks(config: Config) -> list[Risk]:
    """The risks of these settings. Emails that only go to the outbox, or nowhere, reach no person."""
    if config.is_dev:
        return []  # nothing is sent, as intended
    if config.delivery == "outbox":
        finding = "delivery is outbox: no email is sent, all are written to files"
        return [Risk("delivery", finding, "unset FLOWSTATE_DELIVERY (queue.delivery) to send emails")]
    return list(_risks_of_sending(config)) if config.delivery == "resend" else []


def _risks_of_sending(config: Config) -> Iterator[Risk]:
    if is_local(config.mail.frontend_url):
        finding = f"links in emails point to {config.mail.frontend_url}, which recipients cannot open"
        yield Risk("links", finding, "set FRONTEND_URL to the public address of FlowState")
    public_url = config.http.public_url
    if public_url is not None and is_local(public_url):
        finding = f"unsubscribe links point to {public_url}, which recipients cannot open"
        yield Risk("unsubscribe links", finding, "set FLOWSTATE_HTTP_PUBLIC_URL to the public https:// address")
    elif public_url is not None and not public_url.startswith("https://"):
        finding = f"{public_url} is not https: mail clients ignore one-click unsubscribing (RFC 8058)"
        yield Risk("unsubscribe links", finding, "set FLOWSTATE_HTTP_PUBLIC_URL to an https:// address")
    if config.database.url is not None and config.resend.webhook_secret is None:
        finding = "no webhook secret is set; bounces and complaints are unknown, so such addresses get more emails"
        remedy = "create a webhook at the provider and set FLOWSTATE_RESEND_WEBHOOK_SECRET"
        yield Risk("webhooks", finding, remedy, affects_mails=False)


def is_local(url: str) -> bool:
    """Whether only programs on the same machine can open the URL."""
    host = (urlsplit(url).hostname or "").rstrip(".")
    return host in LOCAL_HOSTS or host.endswith(".localhost") or host.startswith("127.")


def describe_schedules(config: Config) -> str:
    """Whether scheduled emails are sent, and which ones."""
    schedule = config.schedule
    if config.queue.mode == "shadow":
        return "off: shadow mode plans nothing"
    if config.database.url is None:
        return "off: they need DATABASE_URL"
    if not schedule.enabled:
        return "off: schedule.enabled is false, so the backend's cron jobs must be on"
    enabled = {
        "task-reminder": schedule.task_reminder,
        "overdue-summary": schedule.overdue_summary,
        "focus-report": schedule.focus_report,
    }
    kinds = ", ".join(kind for kind, is_on in enabled.items() if is_on)
    return f"on: {kinds}; the backend's cron jobs must be off" if kinds else "off: every kind is disabled"
