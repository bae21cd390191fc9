"""The read-only API: the state of the queue, and why an address got an email or not, with what its user has chosen.

`schedules.py` and `recipients_api.py` have the rest.

Requests and responses are JSON, and `auth.BearerAuth` guards every route. No response contains a job's data, so none
contains a one-time code.
"""

from __future__ import annotations

import re

from aiohttp import web

from flowstate_daemon.base.address import parse_address
from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.database.mail_history import MailHistory
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.preferences import describe_preferences
from flowstate_daemon.queue.inspector import Inspector
from flowstate_daemon.web.auth import ROOT, BearerAuth, error_response
from flowstate_daemon.web.responses import json_response

NUMBER = re.compile(r"[1-9]\d{0,3}", re.ASCII)
MAX_MAILS = 1_000
DEFAULT_MAILS = 100


class Api:
    """The read-only routes. `recipients` is None without Postgres; `/explain` does not exist then."""

    def __init__(
        self, auth: BearerAuth, inspector: Inspector, recipients: tuple[Suppressions, MailHistory] | None = None
    ) -> None:
        self._auth = auth
        self._inspector = inspector
        self._recipients = recipients

    def routes(self) -> list[web.RouteDef]:
        guarded = self._auth.require_token
        routes = [web.get(f"{ROOT}/queue", guarded(self.queue))]
        if self._recipients is not None:
            routes.append(web.get(f"{ROOT}/explain", guarded(self.explain)))
        return routes

    async def queue(self, _request: web.Request) -> web.Response:
        """The number of jobs in each state, and the age of the oldest waiting job."""
        return json_response(await self._inspector.snapshot())

    async def explain(self, request: web.Request) -> web.Response:
        """`?address=…&limit=…`: each email of the address, newest first, with the decisions about it."""
        try:
            address = parse_address(request.query.get("address", "").strip())
        except InvalidDataError:
            return error_response(400, "address: expected an email address, such as ?address=ada@example.org")
        limit = request.query.get("limit", str(DEFAULT_MAILS))
        if not NUMBER.fullmatch(limit) or int(limit) > MAX_MAILS:
            return error_response(400, f"limit: expected a number from 1 to {MAX_MAILS}")
        assert self._recipients is not None
        suppressions, history = self._recipients
        status = (await suppressions.status_for([address]))[address]
        mails = await history.explain(address, int(limit))
        lists = {"suppressed": sorted(status.suppressed), "unsubscribed": sorted(status.unsubscribed)}
        chosen = describe_preferences(status.preferences)
        return json_response({"address": address, **lists, "preferences": chosen, "mails": mails})
