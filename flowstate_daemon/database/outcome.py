"""One entry of the outcome journal: read, cleaned, and made fit for Postgres. Pure; `ledger.py` stores the result.

The journal is written by a Lua script from what people typed and providers said. Whatever can be understood is kept,
cut and cleaned; the rest is Malformed and set aside by the caller.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from flowstate_daemon.base.errors import Malformed
from flowstate_daemon.base.privacy import scrubbed
from flowstate_daemon.database.schema import normalised, storable

LATEST_MS = 253_402_214_400_000  # the last day that both Postgres and Python can name
LONGEST_KEY = 500  # a job id may be as long as its producer likes, an index entry may not
LONGEST_WORD = 100
LONGEST_TEXT = 1_000
LONGEST_CHAIN = 50

Instant = Annotated[int, Meta(ge=0, le=LATEST_MS)]
Number = Annotated[int, Meta(ge=0, le=2_147_483_647)]
Word = Annotated[str, Meta(min_length=1)]


@dataclass(frozen=True, slots=True)
class Decision:
    """One step on a mail's way: who decided, what, and why."""

    step: str
    verdict: str
    why: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one try of one mail. `key` and `outcome` together say which; `at` is Unix ms."""

    key: str
    at: int
    job_id: str
    kind: str
    to: str = field(repr=False)
    attempt: int
    outcome: str
    provider_id: str | None = None
    reason: str | None = None
    chain: tuple[Decision, ...] = ()

    @property
    def mail(self) -> str:
        """The key without the attempt: the same for all tries of one mail."""
        return self.key.rpartition(":")[0]


class Entry(msgspec.Struct, frozen=True):
    """An entry as it lies in the journal. Lua writes an empty list as `{}`."""

    key: Word
    at: Instant
    job_id: str
    kind: str
    attempt: Number
    outcome: Word
    to: str | None = None
    provider_id: str | None = None
    reason: str | None = None
    chain: list[Decision] | dict[str, Any] | None = None


ENTRIES = msgspec.json.Decoder(Entry)


def read_outcome(raw: bytes) -> Outcome:
    """Read one journal entry. Raises Malformed, which repeats nothing of it."""
    try:
        return _outcome(_decode(raw))
    except msgspec.ValidationError as error:
        raise Malformed(f"Expected a journal entry: {error}") from None
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Malformed("Expected a journal entry in JSON") from None


def _decode(raw: bytes) -> Entry:
    try:
        return ENTRIES.decode(raw)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError):
        # Half an emoji or a byte that is no UTF-8 in somebody's reason must not cost the outcome.
        mended = json.dumps(json.loads(raw.decode("utf-8", "replace")), ensure_ascii=False)
        return ENTRIES.decode(mended.encode("utf-8", "replace"))


def _outcome(entry: Entry) -> Outcome:
    chain = entry.chain if isinstance(entry.chain, list) else []
    return Outcome(
        key=_key(entry.key),
        at=entry.at,
        job_id=storable(entry.job_id, LONGEST_KEY),
        kind=storable(entry.kind, LONGEST_WORD),
        to=normalised(entry.to or ""),
        attempt=entry.attempt,
        outcome=storable(entry.outcome, LONGEST_WORD),
        provider_id=None if entry.provider_id is None else storable(entry.provider_id, LONGEST_WORD),
        reason=said(entry.reason),
        chain=tuple(_decision(step) for step in chain[:LONGEST_CHAIN]),
    )


def _key(key: str) -> str:
    """The key, or a short stand-in as unique as it is; the attempt stays readable."""
    if len(key) <= LONGEST_KEY:
        return storable(key, LONGEST_KEY)
    mail, _, attempt = key.rpartition(":")
    digest = sha256(mail.encode("utf-8", "replace")).hexdigest()
    return storable(f"{mail[:100]}…{digest}:{attempt[:20]}", LONGEST_KEY)


def _decision(decision: Decision) -> Decision:
    step, verdict = (storable(word, LONGEST_WORD) for word in (decision.step, decision.verdict))
    return Decision(step, verdict, said(decision.why))


def said(text: str | None) -> str | None:
    """Free text from elsewhere: without keys, passwords and addresses, cut."""
    return None if text is None else storable(scrubbed(text), LONGEST_TEXT)
