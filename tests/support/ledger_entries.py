"""Outcomes and journal entries for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from flowstate_daemon.database.ledger import Decision, Outcome
from tests.support.clock import START

START_MS = int(START.timestamp() * 1000)
DECISIONS = (Decision("eligible", "send"), Decision("suppression", "send"), Decision("rate", "send", "waited 0.2 s"))


def outcome(number: int = 1, attempt: int = 1, **changes: Any) -> Outcome:
    """The outcome of an attempt of email `number`, `number` seconds after START."""
    entry = Outcome(
        key=f"bull:email:{number}:{START_MS}:{attempt}",
        at=START_MS + number * 1000 + attempt,
        job_id=str(number),
        kind="welcome",
        to="ada@example.org",
        attempt=attempt,
        outcome="sent",
        provider_id=f"re-{number}",
        decisions=DECISIONS,
    )
    return replace(entry, **changes)


def journal_entry(entry: Outcome) -> bytes:
    """The entry as the Lua scripts write it to the journal."""
    return msgspec.json.encode(entry)
