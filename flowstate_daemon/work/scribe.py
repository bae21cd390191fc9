"""Adds to an ending what must be written with it: the outcome for the ledger, and data without codes. Pure."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.privacy import scrubbed
from flowstate_daemon.mail.secrecy import without_codes
from flowstate_daemon.queue.job import Failed, Finished, Retried
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.work.fate import Ending
from flowstate_daemon.work.inflight import Run

LONGEST_KIND = 100


class Scribe:
    """Writes the outcome of each run in the form that `database.outcome` reads."""

    def __init__(self, keys: Keys, clock: Clock) -> None:
        self._base = keys.base
        self._clock = clock

    def complete(self, run: Run, ending: Ending) -> Ending:
        """The same ending, ready to be settled."""
        match ending:
            case Finished():
                outcome = run.skipped or "sent"
                reason = run.facts.get("skipped") or run.facts.get("expired")
                return replace(ending, journal=self._entry(run, outcome, reason), data=self._left(run))
            case Retried():
                return replace(ending, journal=self._entry(run, "retried", ending.reason))
            case Failed():
                return replace(ending, journal=self._entry(run, "failed", ending.reason), data=self._left(run))
        return ending

    def _entry(self, run: Run, outcome: str, reason: str | None) -> bytes:
        job = run.job
        entry = {
            "key": f"{self._base}{job.id}:{job.timestamp}:{job.attempt}",
            "at": self._clock.now_ms(),
            "job_id": job.id,
            "kind": job.name[:LONGEST_KIND],
            "to": run.to,
            "attempt": job.attempt,
            "outcome": outcome,
            "provider_id": run.facts.get("provider_id"),
            "reason": None if reason is None else scrubbed(reason),
            "chain": run.chain,
        }
        try:
            return msgspec.json.encode(entry)
        except UnicodeEncodeError:  # a name with half an emoji
            return msgspec.json.encode({**entry, "kind": ascii(entry["kind"]), "job_id": ascii(job.id)})

    @staticmethod
    def _left(run: Run) -> bytes:
        return without_codes(run.job.name, run.job.data)
