"""Finds and deletes what the queue in Redis holds about one recipient: jobs, stored requests, journal, audit log.

Used by the command line only. Jobs are read page by page and compared here, because a producer may have written an
address in any spelling. They move while they are read, so `delete` reads again until it finds nothing new.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from flowstate_daemon.base.address import FORGOTTEN, names_recipient, pattern_in_text
from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.base.lenient_json import repair_json
from flowstate_daemon.queue.audit import OperatorAction
from flowstate_daemon.queue.job import State, decode_json
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts

STATES: tuple[State, ...] = ("wait", "paused", "delayed", "active", "completed", "failed")
INDEXES = ("completed", "failed", "delayed", "active", "wait", "paused", "priority", "stalled", "limiter:index")
ZSETS = ("delayed", "completed", "failed")
PAGE_SIZE = 200  # jobs whose data is read in one call
OVERLAP = 50  # jobs that are read again with the next page, because producers move the rest while we read
DELETE_BATCH = 50
MAX_PASSES = 5
MISSING, LOCKED, IN_REQUEST = 0, -1, 2  # results of `forget_jobs.lua`; 1 is a job that was deleted

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class RecipientJob:
    """A job of the recipient: its id, and its data as it was read."""

    id: str
    state: State
    data: bytes = field(repr=False)


@dataclass(slots=True)
class QueueFindings:
    """What the queue held about the recipient.

    `audit` are entries that name the address, such as the filter of an action: they stay without it. `in_flight` are
    jobs of a worker; `in_requests` is how many deleted emails a stored request still contains.
    """

    jobs: Counter[str] = field(default_factory=Counter)
    journal: int = 0
    audit: int = 0
    in_flight: list[str] = field(default_factory=list)
    in_requests: int = 0


def _decode(raw: bytes) -> object:
    """The data as the worker reads it: dirt, such as half an emoji, is repaired. Raises ValueError, RecursionError."""
    try:
        return decode_json(raw, what="data")
    except InvalidDataError:
        return json.loads(repair_json(raw))


class QueueForgetter:
    """Everything about one recipient in one queue. `spellings` are those of the address, in lower case.

    Every method raises StoreUnavailableError.
    """

    def __init__(self, connection: Connection, keys: Keys, spellings: frozenset[str]) -> None:
        self._connection = connection
        self._keys = keys
        self._spellings = spellings
        self._text = re.compile(pattern_in_text(spellings), re.IGNORECASE)  # for text that is not JSON
        self._scripts = Scripts(connection)

    async def find(self, progress: Progress) -> QueueFindings:
        """Count without a change."""
        findings = QueueFindings()
        async for page in self._pages(progress):
            findings.jobs.update(job.state for job in page)
        findings.journal = len([entry async for entry in self._journal_entries()])
        findings.audit = len([entry async for entry, _ in self._audit_entries()])
        return findings

    async def delete(self, progress: Progress) -> QueueFindings:
        """Delete it. A job that a worker holds stays, and is listed."""
        findings = QueueFindings()
        for _ in range(MAX_PASSES):
            findings.in_flight = []
            before = findings.jobs.total()
            async for page in self._pages(progress):
                for start in range(0, len(page), DELETE_BATCH):
                    await self._delete(page[start : start + DELETE_BATCH], findings)
            if findings.jobs.total() == before:
                break
        for entry in [entry async for entry in self._journal_entries()]:
            findings.journal += int(await self._connection.execute("LREM", self._keys.own("journal"), 0, entry))
        for pair in {pair async for pair in self._audit_entries()}:  # one call replaces all entries that are equal
            findings.audit += int(await self._scripts.run("replace_entries", [self._keys.own("audit")], pair))
        return findings

    async def _delete(self, jobs: Sequence[RecipientJob], findings: QueueFindings) -> None:
        keys = [self._keys(name) for name in INDEXES]
        arguments: list[str | bytes] = [self._keys.base]
        for job in jobs:
            keys += (self._keys.job(job.id), self._keys.lock(job.id))
            arguments += (job.id, job.data)
        for job, result in zip(jobs, await self._scripts.run("forget_jobs", keys, arguments), strict=True):
            if result == LOCKED:
                findings.in_flight.append(job.id)
            elif result != MISSING:
                findings.jobs[job.state] += 1
                findings.in_requests += result == IN_REQUEST

    async def _pages(self, progress: Progress) -> AsyncIterator[list[RecipientJob]]:
        """The recipient's jobs, a page of the queue at a time, the end of each list first: deletions move the rest."""
        read, seen = 0, set[str]()
        for state in STATES:
            command, count = ("ZRANGE", "ZCARD") if state in ZSETS else ("LRANGE", "LLEN")
            end = int(await self._connection.execute(count, self._keys(state)))
            while end > 0:
                start = max(end - PAGE_SIZE, 0)
                found = await self._connection.execute(command, self._keys(state), start, end - 1 + OVERLAP)
                ids = {raw.decode("utf-8", "surrogateescape") for raw in found} - seen
                yield await self._matching(state, sorted(ids))
                seen |= ids
                end, read = start, read + len(ids)
                progress(read)

    async def _matching(self, state: State, ids: Sequence[str]) -> list[RecipientJob]:
        if not ids:
            return []
        data = await self._scripts.run("read_data", [self._keys.job(job_id) for job_id in ids], [])
        pairs = zip(ids, data, strict=True)
        return [RecipientJob(job_id, state, raw) for job_id, raw in pairs if raw and self._is_about(raw)]

    def _is_about(self, raw: bytes) -> bool:
        try:
            data = _decode(raw)
        except (ValueError, RecursionError):
            return self._text.search(raw.decode("utf-8", "replace")) is not None
        return isinstance(data, dict) and names_recipient(data.get("to"), self._spellings)

    async def _journal_entries(self) -> AsyncIterator[bytes]:
        """The recipient's entries of the journal."""
        async for entry in self._entries("journal"):
            if self._is_about(entry):
                yield entry

    async def _audit_entries(self) -> AsyncIterator[tuple[bytes, bytes]]:
        """The entries of the audit log that name the recipient, and what they are without the address."""
        async for entry in self._entries("audit"):
            try:
                action = msgspec.json.decode(entry, type=OperatorAction)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue  # written by something else
            target = self._text.sub(FORGOTTEN, action.target)
            if target != action.target:
                yield entry, msgspec.json.encode(msgspec.structs.replace(action, target=target))

    async def _entries(self, name: str) -> AsyncIterator[bytes]:
        """All entries of a list of ours."""
        start, key = 0, self._keys.own(name)
        while page := await self._connection.execute("LRANGE", key, start, start + PAGE_SIZE - 1):
            for entry in page:
                yield entry
            start += len(page)
