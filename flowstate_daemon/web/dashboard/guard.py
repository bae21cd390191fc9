"""Who may see and do what: host names, sessions, CSRF tokens and rights, checked before every page."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import structlog
from aiohttp import web

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import FlowstateError, PermanentError, StoreUnavailableError
from flowstate_daemon.base.logs import LogThrottle
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.operations.shared import PAGE_WAIT_S, SharedValue
from flowstate_daemon.queue.admin import JobStateError
from flowstate_daemon.web.bodies import read_body, read_form
from flowstate_daemon.web.dashboard.rendering import ROOT, PageRenderer, Viewer, choose_locale
from flowstate_daemon.web.session import Session, Sessions

log = structlog.get_logger()

Form = Mapping[str, str]
View = Callable[[web.Request, Viewer], Awaitable[web.StreamResponse]]
FormView = Callable[[web.Request, Viewer, Form], Awaitable[web.StreamResponse]]

EXPIRED_EVENT = b"event: expired\ndata: \n\n"  # to a page whose session has ended
MAX_PATH = 2_000
DENIED_REASONS = {
    "host": "this host name is not one of the server's: use its address, or add it to FLOWSTATE_HTTP_OTHER_HOSTS",
    "csrf": "the form is not of this session: open the page again; if nobody did this, another site has tried it",
    "origin": "the form was sent by a page of another site",
    "rights": "this token may only read: log in with one of FLOWSTATE_HTTP_API_TOKEN",
}
MAX_FORM_BYTES = 16_384
MAX_FIELDS = 100  # a page has 50 rows that can be chosen


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a page: its value, or why it cannot be shown."""

    value: Any = None
    error: str = ""


async def read_part(work: Awaitable[Any]) -> Part:
    """Await a part; a page opens although Redis or Postgres is unavailable."""
    try:
        return Part(await work)
    except StoreUnavailableError as outage:
        return Part(error=outage.reason)


async def read_shared(value: SharedValue[Any] | None) -> Part | None:
    """A part that is shared by all viewers; None when this daemon does not have it."""
    return None if value is None else await read_part(value.get(wait_s=PAGE_WAIT_S))


class Guard:
    """Wraps the views."""

    def __init__(self, sessions: Sessions, pages: PageRenderer, metrics: Metrics, clock: Clock) -> None:
        self.sessions = sessions
        self.pages = pages
        self._metrics = metrics
        self._log_throttles = {reason: LogThrottle(clock) for reason in DENIED_REASONS}

    def public(self, view: View) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A page for everybody who reaches this server under a name of its own."""

        async def handler(request: web.Request) -> web.StreamResponse:
            if not self.sessions.allows_host(request):
                return self._refuse_host(request)
            viewer = self._viewer(request, self.sessions.find(request))
            if request.method == "POST" and not self.sessions.allows_origin(request):
                return self._deny(request, viewer, "origin")
            return await view(request, viewer)

        return handler

    def page(self, view: View) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A page for operators with any rights."""

        async def handler(request: web.Request) -> web.StreamResponse:
            if not self.sessions.allows_host(request):
                return self._refuse_host(request)
            session = self.sessions.find(request)
            if session is None:
                return self._to_login(request)
            viewer = self._viewer(request, session)
            return await self._answer(request, viewer, view(request, viewer))

        return handler

    def action(
        self, view: FormView, *, needs_rights: bool = True
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A form that changes something. It needs the session's CSRF token, and the rights to operate."""

        async def handler(request: web.Request) -> web.StreamResponse:
            if not self.sessions.allows_host(request):
                return self._refuse_host(request)
            session = self.sessions.find(request)
            if session is None:
                return self._to_login(request, posted=True)
            viewer = self._viewer(request, session)
            if not self.sessions.allows_origin(request):
                return self._deny(request, viewer, "origin")
            form = read_form(
                request.headers.get("Content-Type", ""), await read_body(request, MAX_FORM_BYTES), max_fields=MAX_FIELDS
            )
            if not hmac.compare_digest(form.get("csrf", "").encode(), session.csrf.encode()):
                return self._deny(request, viewer, "csrf")
            if needs_rights and not session.may_operate:
                return self._deny(request, viewer, "rights")
            return await self._answer(request, viewer, view(request, viewer, form))

        return handler

    async def _answer(
        self, request: web.Request, viewer: Viewer, work: Awaitable[web.StreamResponse]
    ) -> web.StreamResponse:
        """Expected errors become a page that says what happened."""
        try:
            return await work
        except StoreUnavailableError as outage:
            return self._error(request, viewer, 503, outage)
        except (PermanentError, JobStateError) as error:
            return self._error(request, viewer, 400, error)

    def not_found(self, request: web.Request, viewer: Viewer, reason: str) -> web.Response:
        """The page for something that does not exist, or no longer."""
        return self.pages.page(
            "error.html", viewer, status=404, heading="error.not_found", reason=reason, path=request.path
        )

    def _error(self, request: web.Request, viewer: Viewer, status: int, error: FlowstateError) -> web.Response:
        heading = "error.unavailable" if status == web.HTTPServiceUnavailable.status_code else "error.refused"
        return self.pages.page(
            "error.html", viewer, status=status, heading=heading, reason=error.reason, path=request.path
        )

    def _deny(self, request: web.Request, viewer: Viewer, reason: str) -> web.Response:
        self._denied(request, reason, DENIED_REASONS[reason])
        return self.pages.page(
            "error.html",
            viewer,
            status=403,
            heading="error.denied",
            reason=self.pages.text(viewer.locale, f"denied.{reason}"),
            path=request.path,
        )

    def _refuse_host(self, request: web.Request) -> web.Response:
        """Nothing of the page is shown: another site may have pointed its name to this address."""
        self._denied(request, "host", DENIED_REASONS["host"])
        return web.Response(status=403, text=self.pages.text(choose_locale(request), "denied.host") + "\n")

    def _denied(self, request: web.Request, reason: str, remedy: str) -> None:
        """Count a refused request; the log has one line a minute of each reason."""
        self._metrics.http_denied(reason)
        suppressed = self._log_throttles[reason].acquire()
        if suppressed is not None:
            log.warning("page_denied", reason=reason, method=request.method, remedy=remedy, more_since_last=suppressed)

    def _to_login(self, request: web.Request, *, posted: bool = False) -> web.Response:
        """The login. A form that was posted without a session is lost, so its answer is no redirect."""
        self._metrics.http_denied("session")
        wanted = request.path_qs if request.method == "GET" and request.path.startswith(ROOT) else f"{ROOT}/"
        location = f"{ROOT}/login?next={quote(wanted, safe='')}"
        if request.headers.get("HX-Request"):
            return web.Response(status=401, headers={"HX-Redirect": location})
        if "text/event-stream" in request.headers.get("Accept", ""):  # the page loads itself again, and is led there
            return web.Response(body=EXPIRED_EVENT, content_type="text/event-stream")
        if posted:
            viewer = self._viewer(request, None)
            return self.pages.page("login.html", viewer, status=401, wanted=f"{ROOT}/", problem="login.session_ended")
        return web.Response(status=303, headers={"Location": location})

    def _viewer(self, request: web.Request, session: Session | None) -> Viewer:
        return Viewer(session, choose_locale(request), session is not None and self.sessions.reveals(request, session))


def redirect(path: str) -> web.Response:
    """See the result of an action on another page; a reload does not repeat the action."""
    return web.Response(status=303, headers={"Location": path})


def safe_next(path: str) -> str:
    """A path of these pages; anything else leads to the first one."""
    is_ours = path.startswith(f"{ROOT}/") and len(path) <= MAX_PATH and path.isprintable()
    return path if is_ours and "//" not in path and "\\" not in path else f"{ROOT}/"
