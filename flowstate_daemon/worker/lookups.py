"""Lookups in Postgres, batched: all runs that ask while a query is running share the next one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

import structlog

from flowstate_daemon.base.backoff import Backoff
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import MailExpired, MailSkipped, StoreUnavailableError
from flowstate_daemon.base.logs import LogThrottle
from flowstate_daemon.database.pool import POSTGRES_REMEDY
from flowstate_daemon.database.recipients import NO_USER_PREFERENCES, Suppressions, UserPreferenceReader
from flowstate_daemon.database.scheduled_mails import ScheduledMails, SendClaim
from flowstate_daemon.mail.policy import RecipientStatus

log = structlog.get_logger()

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MAX_KEYS = 500  # keys in one query
MIN_BACKOFF_S = 0.5
MAX_BACKOFF_S = 5.0
URGENT_TIMEOUT_S = 1.0
CLOCK_POLL_INTERVAL_S = 1.0
SCHEDULED_JOB_PREFIX = "scheduled."
# A producer may choose a job id with characters that Postgres does not accept; no scheduled email has such an id.
SCHEDULED_JOB_ID = re.compile(r"scheduled\.[\w.-]+", re.ASCII)


class BatchLoader(Generic[K, V]):
    """Loads values by key with `query`, which is called with up to MAX_KEYS keys and returns a value for each."""

    def __init__(self, name: str, query: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._name = name
        self._query = query
        self._waiting: dict[K, asyncio.Future[V]] = {}
        self._task: asyncio.Task[None] | None = None

    async def load(self, key: K) -> V:
        """The value for one key. Raises the error of the query, such as StoreUnavailableError."""
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run_queries(), name=self._name)
        return await asyncio.shield(future)

    async def load_soon(self, key: K) -> V:
        """The value within URGENT_TIMEOUT_S. Raises the error of the query; StoreUnavailableError if it is late."""
        try:
            async with asyncio.timeout(URGENT_TIMEOUT_S):
                return await self.load(key)
        except TimeoutError:
            raise StoreUnavailableError("Postgres is slow") from None

    async def load_with_retry(self, key: K) -> V:
        """The value, however long the store is unavailable; safe to cancel."""
        backoff = Backoff(MIN_BACKOFF_S, MAX_BACKOFF_S)
        while True:
            try:
                return await self.load(key)
            except StoreUnavailableError:
                await asyncio.sleep(backoff.next_s())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run_queries(self) -> None:
        while self._waiting:
            batch = {key: self._waiting.pop(key) for key in list(self._waiting)[:MAX_KEYS]}
            try:
                found = await self._query(list(batch))
                values = [found[key] for key in batch]
            except Exception as error:  # noqa: BLE001 - also a bug must reach the callers: they would wait for ever
                for future in batch.values():
                    future.set_exception(error)
                    future.exception()  # marks it as retrieved: the caller may have been cancelled
            else:
                for future, value in zip(batch.values(), values, strict=True):
                    future.set_result(value)


class RecipientLoader:
    """Loads what is known about recipients: suppressions, and what they have chosen here or in the application."""

    def __init__(self, suppressions: Suppressions, user_preferences: UserPreferenceReader, clock: Clock) -> None:
        self._throttle = LogThrottle(clock)
        self._suppressions = suppressions
        self._user_preferences = user_preferences
        self._loader = BatchLoader("recipients", self._query)

    async def load(self, address: str, *, urgent: bool) -> RecipientStatus | None:
        """What is known about an address, as its job has it: two users may differ only in capitals.

        Retries until the lookup succeeds; an urgent email gets None instead.
        """
        if not urgent:
            return await self._loader.load_with_retry(address)
        try:
            return await self._loader.load_soon(address)
        except StoreUnavailableError as outage:
            self._report(outage.reason)
            return None

    def _report(self, reason: str) -> None:
        suppressed = self._throttle.acquire()  # while Postgres does not answer, each code comes here
        if suppressed is not None:
            log.warning("recipient_lookup_failed", reason=reason, remedy=POSTGRES_REMEDY, more_since_last=suppressed)

    async def close(self) -> None:
        await self._loader.close()

    async def _query(self, addresses: Sequence[str]) -> Mapping[str, RecipientStatus]:
        status = await self._suppressions.status_for(addresses)
        chosen = await self._user_preferences.preferences_of(addresses)
        found = {address: chosen.get(address, NO_USER_PREFERENCES) for address in addresses}
        return {
            address: replace(status[address], language=app.language, zone=app.zone) for address, app in found.items()
        }


class ScheduledMailGuard:
    """Checks that a scheduled email may be sent now. While Postgres is unreachable or clocks disagree, they wait."""

    def __init__(self, scheduled_mails: ScheduledMails) -> None:
        self._scheduled_mails = scheduled_mails
        self._loader = BatchLoader("send_claims", self._query)

    async def check(self, job_id: str) -> bool:
        """Whether the job is a scheduled email that may be sent; False for other jobs.

        Raises:
            MailSkipped, MailExpired: the email must not be sent.
        """
        if not job_id.startswith(SCHEDULED_JOB_PREFIX):
            return False
        await self._clocks_agree()
        claim = await self._loader.load_with_retry(job_id) if SCHEDULED_JOB_ID.fullmatch(job_id) else None
        if claim is None:
            raise MailSkipped("there is no such scheduled email, or it belongs to another job")
        if claim.outcome_unknown:
            raise MailSkipped("it is not known whether this scheduled email was sent before")
        if not claim.granted and claim.state in {"planned", "queued", "failed"}:
            raise MailExpired("the deadline of this scheduled email has passed")
        if not claim.granted:
            raise MailSkipped(f"this scheduled email was already settled: {claim.state}")
        return True

    async def _clocks_agree(self) -> None:
        """Wait while it is unknown whether the deadline has passed."""
        while True:
            if self._scheduled_mails.clock.reliable:
                return
            await asyncio.sleep(CLOCK_POLL_INTERVAL_S)

    async def close(self) -> None:
        await self._loader.close()

    async def _query(self, job_ids: Sequence[str]) -> Mapping[str, SendClaim | None]:
        found = await self._scheduled_mails.claim(job_ids)
        return {job_id: found.get(job_id) for job_id in job_ids}
