"""Writes the ledger: outcomes from the journal, events from the provider, and the pruning of rows by age.

Every write is idempotent, so that any daemon may repeat it. `mail_history.py` reads.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Annotated, Any

import asyncpg
import msgspec
from msgspec import Meta

from flowstate_daemon.base.address import normalise_address
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.base.redaction import redact_text
from flowstate_daemon.base.text import storable
from flowstate_daemon.database.pool import schema_connection
from flowstate_daemon.database.queries import sql
from flowstate_daemon.mail.message import ProviderEvent
from flowstate_daemon.mail.policy import Decision

LATEST_MS = 253_402_214_400_000  # the last day that both Postgres and Python can represent
MAX_KEY_LENGTH = 500  # a producer may choose a job id of any length, an index entry is limited
MAX_WORD_LENGTH = 100
MAX_TEXT_LENGTH = 1_000
MAX_DECISIONS = 50

Instant = Annotated[int, Meta(ge=0, le=LATEST_MS)]
Number = Annotated[int, Meta(ge=0, le=2_147_483_647)]
Word = Annotated[str, Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one attempt of one email. `key` and `outcome` together are unique; `at` is Unix ms."""

    key: str
    at: int
    job_id: str
    kind: str
    to: str = field(repr=False)
    attempt: int
    outcome: str
    provider_id: str | None = None
    reason: str | None = None
    decisions: tuple[Decision, ...] = ()

    @property
    def mail_key(self) -> str:
        """The key without the attempt: the same for all attempts of one email."""
        return self.key.rpartition(":")[0]


class JournalEntry(msgspec.Struct, frozen=True):
    """An entry of the journal. Lua writes an empty list as `{}`."""

    key: Word
    at: Instant
    job_id: str
    kind: str
    attempt: Number
    outcome: Word
    to: str | None = None
    provider_id: str | None = None
    reason: str | None = None
    decisions: list[Decision] | dict[str, Any] | None = None


ENTRY_DECODER = msgspec.json.Decoder(JournalEntry)


def parse_outcome(raw: bytes) -> Outcome:
    """Parse one journal entry. Raises InvalidDataError, whose message contains no part of the entry."""
    try:
        return _outcome(_decode(raw))
    except msgspec.ValidationError as error:
        raise InvalidDataError(f"Expected a journal entry: {error}") from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise InvalidDataError("Expected a journal entry in JSON") from None


def _decode(raw: bytes) -> JournalEntry:
    try:
        return ENTRY_DECODER.decode(raw)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        # A lone surrogate or invalid UTF-8 in a reason must not lose the outcome.
        repaired = json.dumps(json.loads(raw.decode("utf-8", "replace")), ensure_ascii=False)
        return ENTRY_DECODER.decode(repaired.encode("utf-8", "replace"))


def _outcome(entry: JournalEntry) -> Outcome:
    decisions = entry.decisions if isinstance(entry.decisions, list) else []
    return Outcome(
        key=shorten_key(entry.key),
        at=entry.at,
        job_id=storable(entry.job_id, MAX_KEY_LENGTH),
        kind=storable(entry.kind, MAX_WORD_LENGTH),
        to=normalise_address(entry.to or ""),
        attempt=entry.attempt,
        outcome=storable(entry.outcome, MAX_WORD_LENGTH),
        provider_id=None if entry.provider_id is None else storable(entry.provider_id, MAX_WORD_LENGTH),
        reason=redact_and_trim(entry.reason),
        decisions=tuple(_decision(step) for step in decisions[:MAX_DECISIONS]),
    )


def shorten_key(key: str) -> str:
    """The key, or for a long one its start with a digest; the attempt stays readable."""
    if len(key) <= MAX_KEY_LENGTH:
        return storable(key, MAX_KEY_LENGTH)
    mail, _, attempt = key.rpartition(":")
    digest = sha256(mail.encode("utf-8", "replace")).hexdigest()
    return storable(f"{mail[:100]}…{digest}:{attempt[:20]}", MAX_KEY_LENGTH)


def _decision(decision: Decision) -> Decision:
    check, result = (storable(word, MAX_WORD_LENGTH) for word in (decision.check, decision.result))
    return Decision(check, result, redact_and_trim(decision.reason))


def redact_and_trim(text: str | None) -> str | None:
    """Free text from other systems: keys, passwords and addresses redacted, truncated."""
    return None if text is None else storable(redact_text(text), MAX_TEXT_LENGTH)


WRITE_BATCH_SIZE = 500
PRUNE_BATCH_SIZE = 1_000
MAX_REJECT_BYTES = 8_192
# Short enough for a service to report its heartbeat between two calls.
ACQUIRE_TIMEOUT_S = 8.0
QUERY_TIMEOUT_S = 12.0
# One row that Postgres rejects must not hold up the other 499.
ROW_REFUSED = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.ProgramLimitExceededError)
PRUNED = (
    "prune_mails",
    "prune_events",
    "prune_rejects",
    "prune_scheduled_mails",
    "prune_runs",
    "prune_operator_actions",
)
REQUESTS_KEPT = timedelta(days=1)  # afterwards the ledger is asked, and the provider has forgotten the keys anyway
PRUNED_REQUESTS = ("prune_requests", "prune_request_members")


@dataclass(frozen=True, slots=True)
class RejectedEntry:
    """A journal entry that cannot be parsed or stored, and why."""

    raw: bytes = field(repr=False)
    reason: str


@dataclass(frozen=True, slots=True)
class RecordedEvents:
    """How many events were new, and the webhook ids of those that suppressed their address."""

    new: int
    obeyed: frozenset[str]


class Ledger:
    """Writes `mails`, `provider_events` and `journal_rejects`; outcomes also end rows of `scheduled_mails`."""

    def __init__(self, pool: asyncpg.Pool, clock: Clock) -> None:
        self._pool = pool
        self._clock = clock

    async def write(self, entries: Sequence[Outcome]) -> int:
        """Store outcomes, each once; returns how many were new. Rows that Postgres rejects go to `journal_rejects`."""
        return sum(
            [
                await self._write(entries[start : start + WRITE_BATCH_SIZE])
                for start in range(0, len(entries), WRITE_BATCH_SIZE)
            ]
        )

    async def _write(self, batch: Sequence[Outcome]) -> int:
        try:
            written = await self._call("write_mails", *_columns(batch))
        except ROW_REFUSED as error:
            if len(batch) == 1:
                await self.reject([RejectedEntry(msgspec.json.encode(batch[0]), f"{type(error).__name__}: {error}")])
                return 0
        else:
            # Afterwards, because a report may be stored while the outcomes are written; `prune` looks at all of them.
            await self.obey_noted_events([entry.provider_id for entry in batch if entry.provider_id])
            return written
        half = len(batch) // 2
        return await self._write(batch[:half]) + await self._write(batch[half:])

    async def reject(self, rejects: Sequence[RejectedEntry]) -> int:
        """Keep entries that cannot be stored, each once; returns how many were new."""
        digests = [sha256(reject.raw).digest() for reject in rejects]
        raws = [reject.raw[:MAX_REJECT_BYTES] for reject in rejects]
        reasons = [redact_and_trim(reject.reason) for reject in rejects]
        return await self._call("insert_rejects", digests, raws, reasons, self._clock.now())

    async def record_events(self, events: Sequence[ProviderEvent], *, own_domain: str = "") -> RecordedEvents:
        """Store provider events, each once and in any order, and what they suppress.

        `own_domain` is that of our sender: complaints about it are obeyed even if the ledger does not have the email.
        """
        rows = await self._fetch(
            "insert_events",
            [storable(event.svix_id, MAX_WORD_LENGTH) for event in events],
            [storable(event.provider_id, MAX_WORD_LENGTH) for event in events],
            [storable(event.type, MAX_WORD_LENGTH) for event in events],
            [min(max(event.at, 0), LATEST_MS) for event in events],
            [normalise_address(event.address) for event in events],
            [redact_and_trim(event.reason) for event in events],
            [event.suppress for event in events],
            [bool(own_domain) and event.sender_domain == own_domain for event in events],
        )
        return RecordedEvents(len(rows), frozenset(row["svix_id"] for row in rows if row["obeyed"]))

    async def obey_noted_events(self, provider_ids: Sequence[str] | None = None) -> int:
        """Suppress the addresses of events that came before their emails were known; None looks at all events."""
        if provider_ids is not None and not provider_ids:
            return 0
        return await self._call("obey_noted_events", provider_ids)

    async def lift_provider_suppression(self, event: ProviderEvent) -> int:
        """The provider has removed an address from its suppression list; returns how many suppressions that ended."""
        at_ms = min(max(event.at, 0), LATEST_MS)
        return await self._call("lift_provider_suppression", normalise_address(event.address), at_ms)

    async def prune(self, retention_days: int) -> int:
        """Delete older rows, in small batches that block no other query for long; returns how many were deleted."""
        await self.obey_noted_events()
        now = self._clock.now()
        deleted = [await self._prune(name, now - timedelta(days=retention_days)) for name in PRUNED]
        deleted += [await self._prune(name, now - REQUESTS_KEPT) for name in PRUNED_REQUESTS]
        return sum(deleted)

    async def _prune(self, name: str, before: datetime) -> int:
        deleted = 0
        while count := await self._call(name, before, PRUNE_BATCH_SIZE):
            deleted += count
            if count < PRUNE_BATCH_SIZE:
                break
        return deleted

    async def _call(self, name: str, *arguments: Any) -> int:
        async with schema_connection(self._pool, wait_s=ACQUIRE_TIMEOUT_S) as connection:
            return int(await connection.fetchval(sql(name), *arguments, timeout=QUERY_TIMEOUT_S))

    async def _fetch(self, name: str, *arguments: Any) -> list[asyncpg.Record]:
        async with schema_connection(self._pool, wait_s=ACQUIRE_TIMEOUT_S) as connection:
            return list(await connection.fetch(sql(name), *arguments, timeout=QUERY_TIMEOUT_S))


def _columns(batch: Sequence[Outcome]) -> list[list[Any]]:
    return [
        [entry.key for entry in batch],
        [entry.outcome for entry in batch],
        [entry.mail_key for entry in batch],
        [entry.at for entry in batch],
        [entry.to for entry in batch],
        [entry.kind for entry in batch],
        [entry.job_id for entry in batch],
        [entry.attempt for entry in batch],
        [entry.provider_id for entry in batch],
        [entry.reason for entry in batch],
        [entry.decisions for entry in batch],
    ]
