"""Lists of emails, one email with its timeline, and actions on one, several or all that match a filter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import cast
from urllib.parse import quote, urlencode

import msgspec
from aiohttp import web
from markupsafe import escape

from flowstate_daemon.base.errors import FlowstateError, InvalidDataError
from flowstate_daemon.base.redaction import mask_addresses_in_html
from flowstate_daemon.base.text import storable
from flowstate_daemon.database.mail_list import OUTCOME_NAMES, LedgerPosition, OutcomeRow
from flowstate_daemon.mail.kinds import MailRequest, parse_request
from flowstate_daemon.mail.message import Email
from flowstate_daemon.operations.jobs import ACTIONS, STATES_OF_ACTION, Action
from flowstate_daemon.operations.operator import Operator
from flowstate_daemon.queue.inspector import JobView
from flowstate_daemon.queue.job import State
from flowstate_daemon.queue.search import COUNT_BUDGET_S
from flowstate_daemon.web.dashboard.filters import (
    QUEUE_STATES,
    PageFilter,
    parse_at,
    parse_filter,
    parse_position,
)
from flowstate_daemon.web.dashboard.guard import Form, Guard, Part, read_part, redirect, safe_next
from flowstate_daemon.web.dashboard.rendering import NONE, ROOT, PageRenderer, Viewer

PAGE_SIZE = 50
SAMPLE_SIZE = 10
MAX_KEY = 2_000
PREVIEW_BUDGET_S, SAMPLE_BUDGET_S = 0.08, 0.04  # together with the page within 200 ms
CHOSEN = "job:"
MASKED_CODE = "\N{BULLET}" * 6
FRAME_HEADERS = {
    "Cache-Control": "no-store",
    # What a template or a producer writes runs nothing and loads nothing; `sandbox` also gives it an origin of its own.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox; "
    "frame-ancestors 'self'; form-action 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
}
REMOTE_IMAGE = re.compile(r"<img\b[^>]*>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a page, jobs with their recipients or outcomes, and the query of the next page.

    When the search was interrupted, `remaining` jobs have not been examined, or rows older than `examined_until`.
    """

    jobs: Sequence[tuple[JobView, str]] = ()
    outcomes: Sequence[OutcomeRow] = ()
    next: str | None = None
    remaining: int = 0
    examined_until: datetime | None = None


class EmailPages:
    """`/dashboard/emails`, `/dashboard/jobs/…`, `/dashboard/mails`, `/dashboard/actions`."""

    def __init__(self, operator: Operator, guard: Guard, pages: PageRenderer) -> None:
        self._operator = operator
        self._guard = guard
        self._pages = pages

    def routes(self) -> list[web.RouteDef]:
        page, action = self._guard.page, self._guard.action
        return [
            web.get(f"{ROOT}/emails", page(self.list)),
            web.get(f"{ROOT}/emails/preview", page(self.preview)),
            web.post(f"{ROOT}/emails/selected", action(self.apply)),
            web.get(f"{ROOT}/actions", page(self.actions)),
            web.post(f"{ROOT}/actions", action(self.start)),
            web.post(f"{ROOT}/actions/{{id}}/stop", action(self.stop)),
            # A job id may contain anything, also braces, which the pattern that is usual in aiohttp does not match.
            web.get(f"{ROOT}/jobs/{{id:[^/]+}}", page(self.job)),
            web.get(f"{ROOT}/jobs/{{id:[^/]+}}/html", page(self.frame)),
            web.get(f"{ROOT}/mail", page(self.mail)),
        ]

    async def list(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        wanted = parse_filter(request.query)
        part = await read_part(self._rows(request, wanted))
        return self._pages.page(
            "emails.html",
            viewer,
            active="emails",
            filter=wanted,
            states=QUEUE_STATES,
            outcomes=OUTCOME_NAMES,
            has_ledger=self._operator.recipients is not None,
            rows=part,
            actions=[action for action in ACTIONS if wanted.state in STATES_OF_ACTION[action]],
            query=urlencode(wanted.query()),
        )

    async def preview(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """What an action on all that match would change; nothing is changed. It can be counted for longer."""
        action, state, wanted = self._read_action(request.query)
        job_filter = wanted.job_filter(self._operator.clock.now_ms())
        is_long = request.query.get("count") == "longer"
        count = await self._operator.actions.preview(
            action, state, job_filter, budget_s=COUNT_BUDGET_S if is_long else PREVIEW_BUDGET_S
        )
        sample = await self._operator.search.page(state, job_filter, count=SAMPLE_SIZE, budget_s=SAMPLE_BUDGET_S)
        return self._pages.page(
            "preview.html",
            viewer,
            active="emails",
            action=action,
            filter=wanted,
            count=count,
            longer=None if count.is_exact or is_long else _query(wanted.query(action=action, count="longer")),
            jobs=[(job, job.recipient) for job in sample.jobs],
            job_filter=job_filter,
        )

    async def start(self, _request: web.Request, viewer: Viewer, form: Form) -> web.StreamResponse:
        action, state, wanted = self._read_action(form)
        await self._operator.actions.start(
            self._operator.admin(actor(viewer)),
            action,
            state,
            wanted.job_filter(self._operator.clock.now_ms()),
            maybe_sent=form.get("maybe_sent") == "yes",
        )
        return redirect(f"{ROOT}/actions")

    async def actions(self, _request: web.Request, viewer: Viewer) -> web.StreamResponse:
        return self._pages.page("actions.html", viewer, active="emails", actions=self._operator.actions.actions)

    async def stop(self, request: web.Request, _viewer: Viewer, _form: Form) -> web.StreamResponse:
        self._operator.actions.stop(request.match_info["id"])
        return redirect(f"{ROOT}/actions")

    async def apply(self, _request: web.Request, viewer: Viewer, form: Form) -> web.StreamResponse:
        """An action on the jobs that were chosen: a field `job:<id>` for each."""
        action = form.get("action", "")
        job_ids = [name.removeprefix(CHOSEN) for name in form if name.startswith(CHOSEN)]
        if action not in ACTIONS or not job_ids:
            raise InvalidDataError("choose at least one job, and an action")
        results = await self._operator.actions.apply(self._operator.admin(actor(viewer)), action, job_ids)
        failed = [result for result in results if result.error]
        if failed:
            return self._pages.page(
                "results.html",
                viewer,
                active="emails",
                action=action,
                results=results,
                back=safe_next(form.get("next", "")),
            )
        return redirect(safe_next(form.get("next", "")))

    async def job(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """One job of the queue, with what the ledger knows of it; after an action, its email if the job is gone."""
        job_id = request.match_info["id"]
        job = await self._operator.inspector.job(job_id)
        if job is None:
            added = request.query.get("added", "")
            if added and (await self._record(key := self._key(job_id, added))).value is not None:
                return redirect(f"{ROOT}/mail?{urlencode({'key': key})}")
            return self._guard.not_found(request, viewer, self._pages.text(viewer.locale, "email.job_gone", id=job_id))
        logs = await self._operator.inspector.logs(job_id, 0, 199)
        mail, problem = self._render(job)
        return self._pages.page(
            "email.html",
            viewer,
            active="emails",
            job=job,
            recipient=job.recipient,
            data=msgspec.json.format(msgspec.json.encode(job.redacted_data()), indent=2).decode(),
            logs=logs,
            mail=mail,
            problem=problem,
            record=await self._record(self._key(job.id, job.timestamp or 0)),
            actions=[action for action in ACTIONS if job.state in STATES_OF_ACTION[action]],
            back=f"{ROOT}/jobs/{quote(job.id, safe='')}?added={job.timestamp or 0}",
        )

    async def mail(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """One email of the ledger, whose job may be gone."""
        key = storable(request.query.get("key", ""), MAX_KEY)
        record = await self._record(key)
        if record.value is None:
            reason = record.error or self._pages.text(viewer.locale, "email.mail_gone")
            return self._guard.not_found(request, viewer, reason)
        _, found = record.value
        job = await read_part(self._operator.inspector.state(found.job_id))
        return self._pages.page(
            "mail.html", viewer, active="emails", record=record, job_id=found.job_id, has_job=job.value is not None
        )

    async def frame(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """The HTML of an email alone, for a frame without any rights."""
        job = await self._operator.inspector.job(request.match_info["id"])
        mail, problem = (None, "") if job is None else self._render(job)
        return frame(viewer, escape(problem or NONE) if mail is None else mail.html)

    async def _rows(self, request: web.Request, wanted: PageFilter) -> Rows:
        if wanted.is_queue:
            state = cast("State", wanted.state)
            found = await self._operator.search.page(
                state,
                wanted.job_filter(self._operator.clock.now_ms()),
                position=parse_position(request.query.get("position", "")),
                count=PAGE_SIZE,
            )
            following = None if found.next_position is None else wanted.query(position=found.next_position)
            jobs = [(job, job.recipient) for job in found.jobs]
            return Rows(jobs, next=_query(following), remaining=found.remaining if found.is_partial else 0)
        if self._operator.recipients is None:
            return Rows()
        page = await self._operator.recipients.mails.page(
            wanted.outcome_filter(self._operator.clock.now()), PAGE_SIZE, read_position(request.query)
        )
        following, after = None, page.following
        if after is not None:
            following = wanted.query(at=after.at.isoformat(), after_key=after.key, after_outcome=after.outcome)
        examined_until = after.at if after is not None and page.is_partial else None
        return Rows(outcomes=page.rows, next=_query(following), examined_until=examined_until)

    def _key(self, job_id: str, added: int | str) -> str:
        """The key of a job's email in the ledger; `added` is when the job was added, in Unix ms."""
        return storable(f"{self._operator.keys.base}{job_id}:{added}", MAX_KEY)

    async def _record(self, key: str) -> Part:
        """The email of the ledger with its address; an empty part without a ledger."""
        if self._operator.recipients is None:
            return Part()
        return await read_part(self._operator.recipients.mails.mail(key))

    def _render(self, job: JobView) -> tuple[Email | None, str]:
        """The email as it would be sent now, with its code masked; or None and why it cannot be rendered."""
        try:
            request = parse_request(
                job.name,
                msgspec.json.encode(job.data),
                self._operator.catalog.kinds,
                self._operator.catalog.locales,
            )
            return self._operator.renderer.render(mask_codes(request)), ""
        except (FlowstateError, TypeError, UnicodeEncodeError) as error:
            return None, error.reason if isinstance(error, FlowstateError) else "its data is not that of an email"

    def _read_action(self, fields: Mapping[str, str]) -> tuple[Action, State, PageFilter]:
        wanted = parse_filter(fields)
        action = fields.get("action", "")
        if action not in ACTIONS or wanted.state not in STATES_OF_ACTION[action]:
            raise InvalidDataError("action: choose what to do with the jobs of which state")
        return action, wanted.state, wanted


def frame(viewer: Viewer, html: str) -> web.Response:
    """The HTML of an email for a frame without any rights; addresses are masked until they are revealed."""
    shown = REMOTE_IMAGE.sub("", html if viewer.reveals else mask_addresses_in_html(html))
    return web.Response(text=shown, headers=FRAME_HEADERS, content_type="text/html", charset="utf-8")


def actor(viewer: Viewer) -> str:
    """Who acts, for the audit log."""
    return "page" if viewer.session is None else viewer.session.actor


def mask_codes(request: MailRequest) -> MailRequest:
    """The request with bullets instead of its one-time code. Pure."""
    secrets = request.spec.secret_fields
    names = {field.name for field in msgspec.structs.fields(type(request.context)) if field.encode_name in secrets}
    context = msgspec.structs.replace(request.context, **dict.fromkeys(names, MASKED_CODE))
    return replace(request, context=context)


def read_position(query: Mapping[str, str]) -> LedgerPosition | None:
    """The last row of the page before. Raises InvalidDataError."""
    at: datetime | None = parse_at(query.get("at", ""))
    if at is None:
        return None
    key, outcome = (storable(query.get(name, ""), MAX_KEY) for name in ("after_key", "after_outcome"))
    return LedgerPosition(at, key, outcome)


def _query(fields: Mapping[str, str] | None) -> str | None:
    return None if fields is None else urlencode(fields)
