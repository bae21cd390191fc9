"""The operator's pages together: login and logout, language, revealing of addresses, and the files they load."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote_plus

import structlog
from aiohttp import web

from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.web.bodies import read_body, read_form
from flowstate_daemon.web.dashboard.emails import EmailPages, actor
from flowstate_daemon.web.dashboard.guard import Form, Guard, redirect, safe_next
from flowstate_daemon.web.dashboard.now import NowPage
from flowstate_daemon.web.dashboard.outbox import OutboxPages
from flowstate_daemon.web.dashboard.recipients import RecipientPages
from flowstate_daemon.web.dashboard.rendering import LANGUAGE_COOKIE, LOCALES, ROOT, PageRenderer, Viewer, load_static
from flowstate_daemon.web.dashboard.schedules import SchedulePages
from flowstate_daemon.web.dashboard.state import StatePages
from flowstate_daemon.web.limits import ANONYMOUS_BURST, ANONYMOUS_PER_S, TokenBucket
from flowstate_daemon.web.session import Sessions

log = structlog.get_logger()

MAX_LOGIN_BYTES = 4_096
LANGUAGE_S = 365 * 24 * 3600
STATIC_MAX_AGE_S = 3_600


class Dashboard:
    """All routes below `/dashboard`, and `/`, which leads there."""

    def __init__(
        self, operator: Operator, sessions: Sessions, pages: PageRenderer, metrics: Metrics, outbox: Path | None = None
    ) -> None:
        """`outbox` is the folder of emails that are not sent, if that is what the daemon does with them."""
        self._operator = operator
        self._sessions = sessions
        self._pages = pages
        self._metrics = metrics
        self._guard = Guard(sessions, pages, metrics, operator.clock)
        self._outbox = outbox
        self._login_limit = TokenBucket(operator.clock, ANONYMOUS_PER_S, ANONYMOUS_BURST)
        self._static = load_static()

    def routes(self) -> list[web.RouteDef]:
        public, action = self._guard.public, self._guard.action
        outbox = [] if self._outbox is None else OutboxPages(self._outbox, self._guard, self._pages).routes()
        sections = (NowPage, EmailPages, RecipientPages, SchedulePages, StatePages)
        return [
            web.get("/", public(self.root)),
            web.get(ROOT, public(self.root)),
            web.get(f"{ROOT}/login", public(self.login_form)),
            web.post(f"{ROOT}/login", public(self.log_in)),
            web.get(f"{ROOT}/login/{{link}}", public(self.log_in_by_link)),
            web.post(f"{ROOT}/logout", action(self.log_out, needs_rights=False)),
            web.post(f"{ROOT}/language", action(self.change_language, needs_rights=False)),
            web.post(f"{ROOT}/reveal", action(self.reveal)),
            web.get(f"{ROOT}/static/{{name}}", public(self.static)),
            *outbox,
            *(route for section in sections for route in section(self._operator, self._guard, self._pages).routes()),
            web.get(f"{ROOT}/{{path:.*}}", self._guard.page(self.no_such_page)),  # the last: it matches everything
        ]

    async def root(self, _request: web.Request, _viewer: Viewer) -> web.StreamResponse:
        return redirect(f"{ROOT}/")

    async def no_such_page(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        return self._guard.not_found(request, viewer, self._pages.text(viewer.locale, "error.no_such_page"))

    async def login_form(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        return self._login_page(viewer, request.query.get("next", ""), "")

    async def log_in(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """Compare the token. Wrong ones are counted and limited together, whoever sends them."""
        form = read_form(request.headers.get("Content-Type", ""), await read_body(request, MAX_LOGIN_BYTES))
        response = redirect(safe_next(form.get("next", "")))
        if self._sessions.log_in(response, form.get("token", "")):
            return response
        if not self._login_limit.try_acquire():
            self._metrics.http_denied("too_many")
            return self._login_page(viewer, form.get("next", ""), "login.too_many", status=429)
        self._metrics.http_denied("token")
        log.warning("login_refused", remedy="log in with the value of FLOWSTATE_HTTP_API_TOKEN")
        return self._login_page(viewer, form.get("next", ""), "login.wrong", status=403)

    async def log_in_by_link(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        response = redirect(f"{ROOT}/")
        if self._sessions.log_in_by_link(response, request.match_info["link"]):
            return response
        self._metrics.http_denied("token")
        return self._login_page(viewer, "", "login.link_used", status=403)

    async def log_out(self, _request: web.Request, _viewer: Viewer, _form: Form) -> web.StreamResponse:
        response = redirect(f"{ROOT}/login")
        self._sessions.log_out(response)
        self._sessions.conceal(response)
        return response

    async def change_language(self, _request: web.Request, _viewer: Viewer, form: Form) -> web.StreamResponse:
        response = redirect(safe_next(form.get("next", "")))
        if (language := form.get("language")) in LOCALES:
            response.set_cookie(
                LANGUAGE_COOKIE, str(language), max_age=LANGUAGE_S, path=ROOT, httponly=True, samesite="Strict"
            )
        return response

    async def reveal(self, _request: web.Request, viewer: Viewer, form: Form) -> web.StreamResponse:
        """Show whole addresses for ten minutes, or mask them again. Revealing is in the audit log."""
        response = redirect(safe_next(form.get("next", "")))
        if form.get("action") == "conceal" or viewer.session is None:
            self._sessions.conceal(response)
            return response
        # As text, so that `forget` finds an address in the query.
        page = unquote_plus(safe_next(form.get("next", "")))
        await self._operator.audit(actor(viewer)).record("addresses revealed", page, 1)
        self._sessions.reveal(response, viewer.session)
        return response

    async def static(self, request: web.Request, _viewer: Viewer) -> web.StreamResponse:
        found = self._static.get(request.match_info["name"])
        if found is None:
            raise web.HTTPNotFound
        content, content_type = found
        headers = {"Cache-Control": f"public, max-age={STATIC_MAX_AGE_S}"}
        return web.Response(body=content, content_type=content_type, charset="utf-8", headers=headers)

    def _login_page(self, viewer: Viewer, wanted: str, problem: str, *, status: int = 200) -> web.Response:
        return self._pages.page("login.html", viewer, status=status, wanted=safe_next(wanted), problem=problem)


def login_url(base: str, sessions: Sessions, token: str) -> str:
    """The address of a page that logs in once, for the operator who has started the daemon."""
    return f"{base}{ROOT}/login/{quote(sessions.login_link(token), safe='')}"
