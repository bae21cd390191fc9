"""Emails that other programs enqueue over HTTP: once for each idempotency key."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import PermanentError
from flowstate_daemon.mail_producer import MailProducer, NewMail, encode_data
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys

KEY_TTL_MS = 24 * 3600 * 1000  # as long as the provider remembers its own idempotency keys


class KeyReusedError(PermanentError):
    """The idempotency key belongs to other emails."""


class KeyRecord(msgspec.Struct, frozen=True):
    """What was enqueued under a key: a digest of the emails, when (Unix ms), and whether that has been completed."""

    digest: str
    at: int
    is_complete: bool = False


class EnqueueService:
    """Enqueues emails idempotently.

    The ids and the timestamp of the jobs follow from the key and the time of its first use. Redis accepts each id once
    while it remembers the key, in the script that adds the job. So of a crash in the middle and of concurrent calls
    nothing remains but jobs that were added once: a repetition adds those that are missing, also when the others have
    been sent and deleted meanwhile.
    """

    def __init__(self, producer: MailProducer, connection: Connection, keys: Keys, clock: Clock) -> None:
        self._producer = producer
        self._connection = connection
        self._keys = keys
        self._clock = clock

    async def enqueue(self, mails: Sequence[NewMail], key: str | None) -> tuple[list[str], bool]:
        """The ids of the jobs, and whether the key was known. Raises InvalidMailError, KeyReusedError."""
        if key is None:
            return [added.id for added in await self._producer.enqueue_many(mails)], False
        self._producer.validate(mails)  # an invalid email must not use up the key
        digest = hashlib.sha256(key.encode()).hexdigest()
        name = self._keys.own(f"enqueue:{digest}")
        wanted = KeyRecord(digest_of(mails), self._clock.now_ms())
        record = await self._claim(name, wanted)
        if record.digest != wanted.digest:
            raise KeyReusedError("this idempotency key was used for other emails within the last 24 hours")
        # With the time: after KEY_TTL_MS the key is new, and a job of its first use may still be among the failed ones.
        ids = [f"api-{digest[:32]}-{record.at}-{number}" for number in range(len(mails))]
        if record.is_complete:
            return ids, True
        numbered = [replace(mail, job_id=job_id) for mail, job_id in zip(mails, ids, strict=True)]
        await self._producer.enqueue_many(numbered, timestamp=record.at, once_ms=KEY_TTL_MS)
        complete = msgspec.json.encode(msgspec.structs.replace(record, is_complete=True))
        await self._connection.execute("SET", name, complete, "XX", "KEEPTTL")
        return ids, False

    async def _claim(self, name: str, wanted: KeyRecord) -> KeyRecord:
        """The record of the key: ours if it is new, else the one that exists."""
        while True:
            if await self._connection.execute("SET", name, msgspec.json.encode(wanted), "NX", "PX", KEY_TTL_MS):
                return wanted
            stored = await self._connection.execute("GET", name)
            if stored is not None:  # else it has just expired
                return msgspec.json.decode(stored, type=KeyRecord)


def digest_of(mails: Sequence[NewMail]) -> str:
    """A digest of everything that a repetition must have in common. Pure."""
    content = [(encode_data(mail), mail.priority, mail.delay_ms) for mail in mails]
    return hashlib.sha256(msgspec.json.encode(content, order="deterministic")).hexdigest()
