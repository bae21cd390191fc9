"""One person: every email to an address and why or why not, its preferences and lists, and how to undo an entry."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import structlog
from aiohttp import web

from flowstate_daemon.base.address import parse_address
from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.base.redaction import mask_address
from flowstate_daemon.mail.policy import ALL_KINDS, RecipientStatus, reason_to_skip
from flowstate_daemon.mail.preferences import describe_preferences
from flowstate_daemon.operations.operator import Operator, Recipients
from flowstate_daemon.queue.filters import JobFilter
from flowstate_daemon.queue.inspector import JobView
from flowstate_daemon.queue.job import State
from flowstate_daemon.web.dashboard.emails import actor
from flowstate_daemon.web.dashboard.guard import Form, Guard, Part, read_part, redirect
from flowstate_daemon.web.dashboard.rendering import ROOT, PageRenderer, Viewer

log = structlog.get_logger()

SEARCHED_STATES: tuple[State, ...] = ("active", "paused", "delayed", "failed", "wait")
MAX_JOBS = 20
MAX_MAILS = 50
MAX_NOTE = 200
JOBS_BUDGET_S = 0.1  # the first byte of a page is sent within 200 ms


@dataclass(frozen=True, slots=True)
class QueuedJobs:
    """Jobs of an address; `unfinished` are the states that were not searched completely, and how much is left."""

    jobs: tuple[JobView, ...]
    unfinished: tuple[tuple[State, int], ...]


class RecipientPages:
    """`/dashboard/recipients`."""

    def __init__(self, operator: Operator, guard: Guard, pages: PageRenderer) -> None:
        self._operator = operator
        self._guard = guard
        self._pages = pages

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get(f"{ROOT}/recipients", self._guard.page(self.show)),
            web.post(f"{ROOT}/recipients", self._guard.action(self.change)),
        ]

    async def show(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        given = request.query.get("address", "").strip()
        values: dict[str, Any] = {
            "given": given,
            "problem": "",
            "jobs": None,
            "lists": None,
            "chosen": None,
            "mails": None,
        }
        if given:
            try:
                values["given"] = parse_address(given)
            except InvalidDataError:
                values["problem"] = self._pages.text(viewer.locale, "recipient.invalid")
            else:
                values |= await self._read(values["given"])
        return self._pages.page(
            "recipient.html", viewer, active="recipients", has_ledger=self._operator.recipients is not None, **values
        )

    async def change(self, _request: web.Request, viewer: Viewer, form: Form) -> web.StreamResponse:
        """Suppress an address, end its suppression, or undo an unsubscribe; each is in the audit log."""
        recipients = self._operator.recipients
        if recipients is None:
            raise InvalidDataError("this needs Postgres: set DATABASE_URL")
        address = parse_address(form.get("address", "").strip())
        await self._change(recipients, form, address, actor(viewer))
        return redirect(f"{ROOT}/recipients?{urlencode({'address': address})}")

    async def _change(self, recipients: Recipients, form: Form, address: str, who: str) -> None:
        suppressions, action = recipients.suppressions, form.get("action", "")
        if action == "suppress":
            await suppressions.add(address, "manual", form.get("note", "")[:MAX_NOTE] or None, actor=who)
        elif action == "unsuppress":
            await suppressions.remove(address, actor=who)
        elif action == "resubscribe":
            await suppressions.remove_unsubscribes(address, form.get("kind") or ALL_KINDS, actor=who)
        else:
            raise InvalidDataError("action: expected suppress, unsuppress or resubscribe")
        log.info("recipient_changed", action=action, recipient=mask_address(address), actor=who)

    async def _read(self, address: str) -> dict[str, Any]:
        jobs = await read_part(self._jobs(address))
        if self._operator.recipients is None:
            return {"jobs": jobs}
        recipients, schedules = self._operator.recipients, self._operator.schedules
        refusals = Part({}) if schedules is None else await read_part(schedules.refusals(address))
        lists, suppressed, mails = await asyncio.gather(
            read_part(recipients.suppressions.status_for([address])),
            read_part(recipients.suppressions.find(address)),
            read_part(recipients.history.explain(address, MAX_MAILS)),
        )
        status = (lists.value or {}).get(address)
        chosen = None if status is None else describe_preferences(status.preferences)
        answers = {} if status is None else self._answers(status, refusals.value or {})
        names = [] if schedules is None else schedules.names
        return {
            "jobs": jobs,
            "lists": lists,
            "suppressed": suppressed,
            "chosen": chosen,
            "mails": mails,
            "answers": answers,
            "refusals": refusals,
            "schedules": names,
        }

    def _answers(self, status: RecipientStatus, refusals: Mapping[str, str]) -> dict[str, list[str]]:
        """The kinds of email by the reason why the address would not get them now; those that it would get under "".

        `refusals` are the reasons of the schedules, which also look at the user: deleted, unverified, switched off.
        """
        now_ms = self._operator.clock.now_ms()
        found: dict[str, list[str]] = {}
        for name, kind in self._operator.catalog.kinds.items():
            skip = reason_to_skip(kind, status, now_ms)
            reason = refusals.get(name, "") if skip is None else skip.reason or skip.check
            found.setdefault(reason, []).append(name)
        return dict(sorted(found.items(), reverse=True))

    async def _jobs(self, address: str) -> QueuedJobs:
        """The jobs of this address that are in the queue now, as far as they can be found within JOBS_BUDGET_S."""
        wanted, deadline = JobFilter(recipient=address), self._operator.clock.monotonic() + JOBS_BUDGET_S
        found: list[JobView] = []
        unfinished: list[tuple[State, int]] = []
        for number, state in enumerate(SEARCHED_STATES):
            left_s = deadline - self._operator.clock.monotonic()
            share_s = left_s / (len(SEARCHED_STATES) - number)  # what short states leave over is for the long ones
            page = await self._operator.search.page(state, wanted, count=MAX_JOBS, budget_s=share_s)
            found += page.jobs
            if page.is_partial:
                unfinished.append((state, page.remaining))
        return QueuedJobs(tuple(found[:MAX_JOBS]), tuple(unfinished))
