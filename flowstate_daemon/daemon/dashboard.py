"""Builds the operator's pages, the API and their sessions from the configuration; a part of the composition root.

Pages and API are imported when they are built: without a token there are none, and they would cost 5 MB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.config.loader import Config
from flowstate_daemon.config.validators import split_secrets
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.shadow.bootstrap import is_shadow
from flowstate_daemon.web.session import Rights, Sessions

if TYPE_CHECKING:
    from flowstate_daemon.web.api_v1.app import ApiV1
    from flowstate_daemon.web.dashboard.app import Dashboard


def build_sessions(config: Config, clock: Clock) -> Sessions:
    """Who may use the pages and the API: the tokens and the host names of the configuration."""
    http = config.http
    rights: tuple[tuple[SecretStr | None, Rights], ...] = ((http.read_token, "read"), (http.api_token, "operate"))
    tokens = [(token, right) for secret, right in rights for token in split_secrets(secret)]
    public = urlsplit(http.public_url or "")
    hosts = (http.host, public.hostname or "", *(name.strip() for name in http.other_hosts.split(",")))
    return Sessions(tokens, clock, secure=public.scheme == "https", hosts=hosts)


def build_api(operator: Operator, sessions: Sessions, metrics: Metrics) -> ApiV1:
    """The API with all its endpoints."""
    from flowstate_daemon.web.api_v1.app import ApiV1  # noqa: PLC0415 - see above

    return ApiV1(operator, sessions, metrics)


def build_dashboard(operator: Operator, sessions: Sessions, metrics: Metrics) -> Dashboard:
    """The pages. Where nothing is sent, they also show the outbox."""
    from flowstate_daemon.web.dashboard.app import Dashboard  # noqa: PLC0415 - see above
    from flowstate_daemon.web.dashboard.rendering import PageRenderer  # noqa: PLC0415

    config = operator.config
    environment = "production"
    if is_shadow(config):
        environment = "shadow"
    elif config.queue.delivery == "outbox":
        environment = "outbox"
    pages = PageRenderer(lambda: operator.config.mail.app_name, environment, lambda: operator.catalog.kinds)
    return Dashboard(operator, sessions, pages, metrics, config.outbox.folder if environment == "outbox" else None)
