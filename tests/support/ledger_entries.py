"""Outcomes for tests: one call, one believable entry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from flowstate_daemon.database.ledger import Decision, Outcome
from tests.support.clock import START

START_MS = int(START.timestamp() * 1000)
CHAIN = (Decision("eligible", "send"), Decision("suppression", "send"), Decision("rate", "send", "waited 0.2 s"))


def outcome(number: int = 1, attempt: int = 1, **changes: Any) -> Outcome:
    """What became of a try of mail `number`, which was settled `number` seconds after the start."""
    entry = Outcome(
        key=f"bull:email:{number}:{START_MS}:{attempt}",
        at=START_MS + number * 1000 + attempt,
        job_id=str(number),
        kind="welcome",
        to="ada@example.org",
        attempt=attempt,
        outcome="sent",
        provider_id=f"re-{number}",
        decisions=CHAIN,
    )
    return replace(entry, **changes)


def journal_entry(entry: Outcome) -> bytes:
    """The entry as the settling script writes it."""
    return msgspec.json.encode(entry)
