"""Questions of many runs, gathered into few queries: whoever asks while one is under way shares the next."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import structlog

from flowstate_daemon.base.errors import MailExpired, MailSkipped, StoreUnavailableError
from flowstate_daemon.database.recipients import Suppressions, UserLanguages
from flowstate_daemon.database.scheduled_mails import ScheduledMails, SendClaim
from flowstate_daemon.mail.policy import RecipientStatus

V = TypeVar("V")

MAX_KEYS = 500  # questions in one query
MIN_BACKOFF_S = 0.5
MAX_BACKOFF_S = 5.0


class BatchLoader(Generic[V]):
    """Asks `ask` for up to MOST keys at a time; it answers every key that it is asked for."""

    def __init__(self, name: str, ask: Callable[[Sequence[str]], Awaitable[Mapping[str, V]]]) -> None:
        self._name = name
        self._ask = ask
        self._asked: dict[str, asyncio.Future[V]] = {}
        self._asking: asyncio.Task[None] | None = None

    async def load(self, key: str) -> V:
        """The answer for one key. Raises what the query that carried it raised, such as Outage."""
        waiting = self._asked.get(key)
        if waiting is None:
            waiting = self._asked[key] = asyncio.get_running_loop().create_future()
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._answer(), name=self._name)
        return await asyncio.shield(waiting)

    async def load_with_retry(self, key: str) -> V:
        """The answer, however long the store is away; safe to cancel."""
        rest_s = MIN_BACKOFF_S
        while True:
            try:
                return await self.load(key)
            except StoreUnavailableError:
                await asyncio.sleep(rest_s)
            rest_s = min(rest_s * 2, MAX_BACKOFF_S)

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _answer(self) -> None:
        while self._asked:
            batch = {key: self._asked.pop(key) for key in list(self._asked)[:MAX_KEYS]}
            try:
                found = await self._ask(list(batch))
                answers = [found[key] for key in batch]
            except Exception as error:  # noqa: BLE001 - a bug, too, is for those who asked: they would wait for ever
                for waiting in batch.values():
                    waiting.set_exception(error)
                    waiting.exception()  # whoever asked may have gone meanwhile
            else:
                for waiting, answer in zip(batch.values(), answers, strict=True):
                    waiting.set_result(answer)


log = structlog.get_logger()

URGENT_TIMEOUT_S = 1.0


class RecipientLoader:
    """Gathers questions while one is under way, so that a thousand mails cost two rounds of queries."""

    def __init__(self, suppressions: Suppressions, languages: UserLanguages) -> None:
        self._suppressions = suppressions
        self._languages = languages
        self._loader = BatchLoader("people", self._look_up)

    async def load(self, address: str, *, urgent: bool) -> RecipientStatus | None:
        """What is known about the owner of an address; None for an urgent mail when nobody could be asked."""
        if not urgent:
            return await self._loader.load_with_retry(address)
        try:
            async with asyncio.timeout(URGENT_TIMEOUT_S):
                return await self._loader.load(address)
        except (StoreUnavailableError, TimeoutError) as error:
            log.warning("recipient_lookup_failed", reason=str(error) or "Postgres is slow", remedy="see DATABASE_URL")
            return None

    async def close(self) -> None:
        await self._loader.close()

    async def _look_up(self, addresses: Sequence[str]) -> Mapping[str, RecipientStatus]:
        found = await self._suppressions.status_for(addresses)
        chosen = await self._languages.languages_of(addresses)
        return {address: replace(found[address], language=chosen.get(address)) for address in addresses}


SCHEDULED_JOB_PREFIX = "scheduled."
# What a producer calls a job may hold characters that Postgres does not take; no slot has such a name.
SCHEDULED_JOB_ID = re.compile(r"scheduled\.[\w.-]+", re.ASCII)


class ScheduledMailGuard:
    """Gathers questions while one is under way. While Postgres is away, mails of the calendar wait."""

    def __init__(self, scheduled_mails: ScheduledMails) -> None:
        self._scheduled_mails = scheduled_mails
        self._loader = BatchLoader("leaves", self._look_up)

    async def check(self, job_id: str) -> bool:
        """Return when the job may send its mail: whether a slot gave claim. Raises Skip or Expired when it must not."""
        if not job_id.startswith(SCHEDULED_JOB_PREFIX):
            return False
        claim = await self._loader.load_with_retry(job_id) if SCHEDULED_JOB_ID.fullmatch(job_id) else None
        if claim is None:
            raise MailSkipped("the calendar has no such slot, or has given it another job")
        if claim.outcome_unknown:
            raise MailSkipped("the calendar has given this mail up: nobody knows whether it has left before")
        if not claim.granted and claim.state in {"planned", "queued", "failed"}:
            raise MailExpired("it is too late for this mail of the calendar")
        if not claim.granted:
            raise MailSkipped(f"the calendar has ended this slot before: {claim.state}")
        return True

    async def close(self) -> None:
        await self._loader.close()

    async def _look_up(self, job_ids: Sequence[str]) -> Mapping[str, SendClaim | None]:
        found = await self._scheduled_mails.claim(job_ids)
        return {job_id: found.get(job_id) for job_id in job_ids}
