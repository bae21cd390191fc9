"""What answers below `/api/v1` without a token. It imports none of the API, which would cost 5 MB."""

from __future__ import annotations

import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.logs import LogThrottle
from flowstate_daemon.web.responses import problem

log = structlog.get_logger()

ROOT = "/api/v1"
API_DISABLED = "set FLOWSTATE_HTTP_API_TOKEN or FLOWSTATE_HTTP_READ_TOKEN (32 characters or more) to enable the API"


def disabled_routes(clock: Clock) -> list[web.RouteDef]:
    """The routes without a token: every request gets 404, and the log says how to enable the API."""
    throttle = LogThrottle(clock)

    async def not_found(request: web.Request) -> web.StreamResponse:
        suppressed = throttle.acquire()
        if suppressed is not None:
            log.warning("api_disabled", method=request.method, remedy=API_DISABLED, more_since_last=suppressed)
        return problem(404)

    return [web.route("*", f"{ROOT}/{{rest:.*}}", not_found)]
