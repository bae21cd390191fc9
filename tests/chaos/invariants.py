"""What must be true after a chaos round, whatever happened in it. Pure: a history in, violations out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from flowstate_daemon.scheduler.reconciler import LOST_REASON
from flowstate_daemon.sending.batch import MAYBE_SENT, OUTCOME_UNKNOWN
from tests.chaos.history import SETTLED_LEDGER, FailedJob, History, Life, ScheduledRow
from tests.chaos.plan import LOST_WRITES, POSTGRES, PROVIDER, Plan

MAX_GROWTH_MB = 24.0  # the memory of what was sent fills up with 20,000 emails
MAX_GROWTH_FDS = 16
MAX_GROWTH_TASKS = 30
MIN_SAMPLES = 100  # of a process, before its growth says anything
MAX_MB, MAX_FDS, MAX_TASKS = 220.0, 150, 900  # of any process, at any time
REFUSED = ("Invalid `to` field",)
# An attempt that failed because of the provider: after the last one the job is in `failed`, as in Bull.
PROVIDER_FAILED = ("scripted", "time-out", "timed out", "Connection", "connection", "answer", "response", "server")


@dataclass(frozen=True, slots=True)
class Violation:
    """An invariant that does not hold; `to` is the address of the email concerned, if it is one email."""

    invariant: str
    text: str
    to: str | None = None


@dataclass(frozen=True, slots=True)
class Exceptions:
    """What is documented, and so no violation; counted, because it should be rare.

    `parked`: nobody knows whether it was sent, and a person decides (ADR 6). `gave_up`: all attempts of the job failed
    because of the provider. `refused`: by the provider. `code_twice`: a code sent without a record while Postgres was
    away, whose request Redis then lost (ADR 8). `unrecorded`: sent, and lost by Redis with its job and its outcome,
    before the outcome was in the ledger. `scheduled_unknown`: the same for a scheduled email, by address and kind; it
    ends as failed after ten minutes.
    """

    parked: tuple[str, ...] = ()
    gave_up: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    code_twice: tuple[str, ...] = ()
    unrecorded: tuple[str, ...] = ()
    scheduled_unknown: tuple[tuple[str, str], ...] = ()


def find_exceptions(history: History, plan: Plan) -> Exceptions:
    """The documented exceptions that the faults of the plan explain."""
    parked, gave_up, refused = [], [], []
    for job in history.failed:
        if job.reason == OUTCOME_UNKNOWN and plan.has(*LOST_WRITES):
            parked.append(job.to)
        elif any(text in job.reason for text in REFUSED):
            refused.append(job.to)
        elif any(text in job.reason for text in PROVIDER_FAILED) and plan.has(*PROVIDER):
            gave_up.append(job.to)
    twice: list[str] = []
    unrecorded: list[str] = []
    scheduled: list[tuple[str, str]] = []
    if plan.has(*LOST_WRITES):
        in_ledger = {row.to for row in history.ledger if row.outcome == "sent"}
        lost = {email.to for email in history.produced if email.lost}
        unrecorded = [email.to for email in history.accepted if email.to in lost - in_ledger]
        scheduled = [(row.to, row.kind) for row in history.scheduled if _is_unknown(row)]
    if plan.has(*LOST_WRITES) and plan.has(*POSTGRES):
        kinds = {email.to: email.kind for email in history.produced}
        times = Counter(email.to for email in history.accepted)
        twice = [to for to, count in times.items() if count == 2 and kinds.get(to) in ("otp", "password-reset")]
    return Exceptions(*map(tuple, (parked, gave_up, refused, twice, unrecorded, scheduled)))  # type: ignore[arg-type]


def _is_unknown(row: ScheduledRow) -> bool:
    """Redis has lost its job while, or after, a request contained it."""
    return (row.state == "queued" and row.recorded) or (row.state == "failed" and row.reason == LOST_REASON)


def check(history: History, plan: Plan) -> list[Violation]:
    """All violations, most serious first."""
    known = find_exceptions(history, plan)
    return [
        *_accepted_twice(history, known),
        *_not_settled(history),
        *_failed(history, known),
        *_settled_twice(history, known),
        *_scheduled(history, known),
        *_ledger(history, known),
        *_growth(history),
        *_processes(history),
    ]


def _accepted_twice(history: History, known: Exceptions) -> Iterator[Violation]:
    """The provider accepts each email at most once. An email is an address and a subject."""
    times = Counter((email.to, email.subject) for email in history.accepted)
    for (to, subject), count in times.items():
        if count > 1 and to not in known.code_twice:
            yield Violation("sent once", f"the provider accepted {subject!r} to {to} {count} times", to)


def _not_settled(history: History) -> Iterator[Violation]:
    """Every job that Redis has acknowledged and still knows is sent, failed, or was completed by the Bull worker."""
    accepted = {email.to for email in history.accepted}
    failed = {job.to for job in history.failed}
    taken = set(history.taken_by_bull.values())
    for email in history.produced:
        if email.is_required and email.to not in accepted and email.to not in failed and email.to not in taken:
            yield Violation("settled", f"job {email.job_id} to {email.to} was neither sent nor failed", email.to)
    for job_id in history.unsettled:
        to = next((email.to for email in history.produced if email.job_id == job_id and not email.lost), None)
        yield Violation("settled", f"job {job_id} is still in the queue", to)
    if history.journal:
        yield Violation("ledger", f"{history.journal} outcomes are still in the journal")


def _failed(history: History, known: Exceptions) -> Iterator[Violation]:
    """A job fails only for a documented reason, and is then not sent, unless nobody could know."""
    accepted = {email.to for email in history.accepted}
    explained = {*known.parked, *known.gave_up, *known.refused}
    for job in history.failed:
        if job.to not in explained:
            yield Violation("failed", f"job {job.job_id} to {job.to} failed: {job.reason}", job.to)
        elif job.to in accepted - {*known.parked, *_maybe_sent(history)} and not _is_scheduled(history, job):
            yield Violation("failed", f"job {job.job_id} to {job.to} failed, and was sent: {job.reason}", job.to)


def _maybe_sent(history: History) -> set[str]:
    """The recipients of failed emails whose reason says that they may have been sent."""
    return {job.to for job in history.failed if job.reason.endswith(MAYBE_SENT.format(reason=""))}


def _is_scheduled(history: History, job: FailedJob) -> bool:
    """The address gets several scheduled emails; those are compared by kind."""
    return any(row.job_id == job.job_id for row in history.scheduled)


def _settled_twice(history: History, known: Exceptions) -> Iterator[Violation]:
    """Each email has one final row in the ledger; a code that was sent twice has one for each time."""
    final = Counter(row.mail for row in history.ledger if row.outcome in SETTLED_LEDGER)
    rows = {row.mail: row for row in history.ledger}
    for mail, count in final.items():
        if count > 1 and rows[mail].to not in known.code_twice:
            outcomes = sorted(row.outcome for row in history.ledger if row.mail == mail)
            yield Violation("settled once", f"email {mail} has the outcomes {', '.join(outcomes)}", rows[mail].to)


def _scheduled(history: History, known: Exceptions) -> Iterator[Violation]:
    """Each user gets each scheduled email once."""
    sent = Counter((row.to, row.kind) for row in history.ledger if row.outcome == "sent")
    state = {(row.to, row.kind): row for row in history.scheduled}
    taken = set(history.taken_by_bull)
    excused = {*known.parked, *known.gave_up}
    for to, kind in history.expected:
        row = state.get((to, kind))
        if (to, kind) in known.scheduled_unknown:
            continue
        if row is None:
            yield Violation("scheduled", f"the {kind} of {to} was never planned", to)
        elif sent[to, kind] != 1 and row.job_id not in taken and to not in excused:
            text = f"the {kind} of {to} was sent {sent[to, kind]} times; its row: {row.state}, {row.reason}"
            yield Violation("scheduled", text, to)
        elif row.state in ("planned", "queued") and row.job_id not in taken:
            yield Violation("scheduled", f"the {kind} of {to} is still {row.state}", to)
    expected = set(history.expected)
    for to, kind in state:
        if expected and (to, kind) not in expected:
            yield Violation("scheduled", f"nobody expects a {kind} to {to}", to)


def _ledger(history: History, known: Exceptions) -> Iterator[Violation]:
    """What the provider has accepted is in the ledger as sent, and nothing else; the queue's failed jobs as failed."""
    accepted = {email.id: email for email in history.accepted}
    sent = Counter(row.provider_id for row in history.ledger if row.outcome == "sent")
    # A job that npm bull's worker took over, after the daemon had sent it and lost its lock: Bull writes no ledger.
    excused = {*known.parked, *known.code_twice, *known.unrecorded, *history.taken_by_bull.values()}
    excused |= {to for to, _ in known.scheduled_unknown} | _maybe_sent(history)
    for number, email in accepted.items():
        if sent[number] != 1 and email.to not in excused:
            yield Violation(
                "ledger", f"{email.subject!r} to {email.to} is {sent[number]} times in the ledger", email.to
            )
    for row in history.ledger:
        if row.outcome != "sent":
            continue
        found = accepted.get(row.provider_id or "")
        if found is None or found.to != row.to:
            yield Violation(
                "ledger", f"email {row.mail} to {row.to} is sent, but the provider does not know it", row.to
            )
    in_ledger = {row.job_id for row in history.ledger if row.outcome == "failed"}
    for job in history.failed:
        if job.job_id not in in_ledger:
            yield Violation("ledger", f"the failure of job {job.job_id} to {job.to} is not in the ledger", job.to)


def _growth(history: History) -> Iterator[Violation]:
    """Memory, descriptors and tasks of a process do not grow, and are never many."""
    for life in history.lives:
        for name, values, growth, most in (
            ("memory (MB)", life.rss_mb, MAX_GROWTH_MB, MAX_MB),
            ("descriptors", life.fds, MAX_GROWTH_FDS, MAX_FDS),
            ("asyncio tasks", life.tasks, MAX_GROWTH_TASKS, MAX_TASKS),
        ):
            if len(values) >= MIN_SAMPLES and (grown := Life.growth(values)) > growth:
                yield Violation("flat", f"daemon {life.daemon}: {name} grew by {grown:g}")
            if max(values, default=0) > most:
                yield Violation("flat", f"daemon {life.daemon}: {name} reached {max(values):g}")


def _processes(history: History) -> Iterator[Violation]:
    """A daemon ends only when it is told to, recovers by itself, and stops in order."""
    for code in history.exits:
        yield Violation("alive", f"a daemon ended by itself, exit code {code}")
    for number in history.not_ready:
        yield Violation("alive", f"daemon {number} is not ready after all faults have healed")
    for stop in history.stops:
        if stop != 0:
            yield Violation("alive", f"a daemon did not stop in order: {'no end' if stop is None else stop}")
