"""Each invariant of a chaos round can fail: a good history has no violation, and each broken one has the right one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from flowstate_daemon.scheduler.reconciler import LOST_REASON
from flowstate_daemon.sending.batch import OUTCOME_UNKNOWN
from tests.chaos.history import Accepted, FailedJob, History, LedgerRow, Life, Produced, ScheduledRow
from tests.chaos.invariants import MIN_SAMPLES, check, find_exceptions
from tests.chaos.plan import Fault, Plan

ADA, BOB, USER = "ada@mail.dev", "bob@mail.dev", "user1@mail.dev"
QUIET = Plan(1, 60.0, "single", 2, False, ())


def plan_with(*kinds: str) -> Plan:
    return replace(QUIET, faults=tuple(Fault(kind, 5.0, 1.0, -1, 1.0) for kind in kinds))


def steady(**samples: list[float]) -> Life:
    flat = {"rss_mb": [80.0], "fds": [20], "tasks": [40]}
    return Life(0, **{name: samples.get(name, values * MIN_SAMPLES * 2) for name, values in flat.items()})  # type: ignore[arg-type]


def good() -> History:
    """Two emails and a scheduled one, all sent once; an add whose answer was lost, and a job lost in a failover."""
    return History(
        produced=[
            Produced(ADA, "welcome", "1"),
            Produced(BOB, "otp", "2"),
            Produced("unknown@mail.dev", "welcome", None),
            Produced("lost@mail.dev", "welcome", "9", lost=True),
        ],
        accepted=[
            Accepted("a", ADA, "Welcome", "k1", 1),
            Accepted("b", BOB, "Your code", "k2", 2),
            Accepted("c", USER, "Tasks", "k3", 3),
        ],
        ledger=[
            LedgerRow("m1", "1", ADA, "welcome", 1, "retried", None, "scripted"),
            LedgerRow("m1", "1", ADA, "welcome", 2, "sent", "a"),
            LedgerRow("m2", "2", BOB, "otp", 1, "sent", "b"),
            LedgerRow("m3", "scheduled.1", USER, "task-reminder", 1, "sent", "c"),
        ],
        failed=[],
        expected=[(USER, "task-reminder")],
        scheduled=[ScheduledRow(USER, "task-reminder", "sent", "scheduled.1")],
        lives=[steady()],
        stops=[0, 0],
    )


def test_a_good_history_has_no_violation() -> None:
    assert check(good(), QUIET) == []


def twice(history: History) -> History:
    return replace(history, accepted=[*history.accepted, Accepted("d", ADA, "Welcome", "k9", 9)])


def drop(name: str, to: str) -> Callable[[History], History]:
    """The history without what concerns this address in one of its lists."""
    return lambda history: replace(history, **{name: [row for row in getattr(history, name) if row.to != to]})


def fail(to: str, job_id: str, reason: str, *, keep: bool = False) -> Callable[[History], History]:
    """The job failed instead of being sent; with `keep` it was sent as well."""

    def change(history: History) -> History:
        row = LedgerRow(f"m{job_id}", job_id, to, "welcome", 3, "failed", None, reason)
        kept = history if keep else drop("accepted", to)(drop("ledger", to)(history))
        ledger = [found for found in kept.ledger if found.to != to] if keep else kept.ledger
        return replace(kept, ledger=[*ledger, row], failed=[FailedJob(job_id, to, reason)])

    return change


def both(*changes: Callable[[History], History]) -> Callable[[History], History]:
    def change(history: History) -> History:
        for one in changes:
            history = one(history)
        return history

    return change


BROKEN: dict[str, tuple[str, Callable[[History], History]]] = {
    "an email is accepted twice": ("sent once", twice),
    "an email disappears": ("settled", both(drop("accepted", ADA), drop("ledger", ADA))),
    "a job stays in the queue": ("settled", lambda h: replace(h, unsettled=["1"])),
    "an outcome stays in the journal": ("ledger", lambda h: replace(h, journal=1)),
    "a job fails for a reason of ours": ("failed", fail(ADA, "1", "KeyError: 'name'")),
    "a job is parked without lost writes": ("failed", fail(ADA, "1", OUTCOME_UNKNOWN)),
    "a job fails at a provider without faults": ("failed", fail(ADA, "1", "scripted")),
    "two final outcomes": (
        "settled once",
        lambda h: replace(h, ledger=[*h.ledger, LedgerRow("m1", "1", ADA, "welcome", 3, "skipped")]),
    ),
    "a scheduled email is not planned": ("scheduled", lambda h: replace(h, scheduled=[])),
    "a scheduled email is not sent": (
        "scheduled",
        both(drop("accepted", USER), drop("ledger", USER)),
    ),
    "a scheduled email is sent twice": (
        "scheduled",
        lambda h: replace(h, ledger=[*h.ledger, LedgerRow("m4", "s2", USER, "task-reminder", 1, "sent", "d")]),
    ),
    "a scheduled email does not end": (
        "scheduled",
        lambda h: replace(h, scheduled=[replace(h.scheduled[0], state="queued")]),
    ),
    "a scheduled email that nobody expects": (
        "scheduled",
        lambda h: replace(h, scheduled=[*h.scheduled, ScheduledRow(USER, "focus-report", "sent", "s3")]),
    ),
    "an accepted email is not in the ledger": ("ledger", drop("ledger", BOB)),
    "the ledger has an email that was not sent": ("ledger", both(drop("accepted", BOB))),
    "the ledger has another recipient": (
        "ledger",
        lambda h: replace(h, ledger=[replace(row, to=BOB) if row.to == ADA else row for row in h.ledger]),
    ),
    "the ledger has an email twice": (
        "ledger",
        lambda h: replace(h, ledger=[*h.ledger, LedgerRow("m5", "1", ADA, "welcome", 1, "sent", "a")]),
    ),
    "a failure is not in the ledger": ("ledger", lambda h: replace(h, failed=[FailedJob("7", ADA, "x")])),
    "memory grows": ("flat", lambda h: replace(h, lives=[steady(rss_mb=[80.0] * 100 + [120.0] * 100)])),
    "memory is high": ("flat", lambda h: replace(h, lives=[steady(rss_mb=[300.0])])),
    "descriptors are many": ("flat", lambda h: replace(h, lives=[steady(fds=[400])])),
    "tasks are many": ("flat", lambda h: replace(h, lives=[steady(tasks=[2000])])),
    "descriptors grow": ("flat", lambda h: replace(h, lives=[steady(fds=[20] * 100 + [60] * 100)])),
    "tasks grow": ("flat", lambda h: replace(h, lives=[steady(tasks=[20] * 100 + [90] * 100)])),
    "a daemon ends by itself": ("alive", lambda h: replace(h, exits=[1])),
    "a daemon is not ready": ("alive", lambda h: replace(h, not_ready=[0])),
    "a daemon does not stop": ("alive", lambda h: replace(h, stops=[None])),
    "a daemon stops with an error": ("alive", lambda h: replace(h, stops=[1])),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_history_has_a_violation(name: str) -> None:
    """Each of these histories breaks the invariant that it is meant to break."""
    invariant, change = BROKEN[name]
    assert invariant in {violation.invariant for violation in check(change(good()), QUIET)}


def test_a_violation_names_the_email_that_it_concerns() -> None:
    """From the address the story of the email is found."""
    violation = check(twice(good()), QUIET)[0]
    assert violation.to == ADA
    assert "2 times" in violation.text


@pytest.mark.parametrize(
    ("kinds", "change"),
    [
        (("redis-failover",), fail(ADA, "1", OUTCOME_UNKNOWN)),
        (("redis-failover",), fail(ADA, "1", OUTCOME_UNKNOWN, keep=True)),
        (("provider-5xx",), fail(ADA, "1", "scripted")),
        (("provider-5xx",), fail(ADA, "1", "scripted (the email may have been sent)", keep=True)),
        ((), fail(ADA, "1", "Invalid `to` field. Please use our testing email address")),
    ],
)
def test_documented_exceptions_are_counted(kinds: tuple[str, ...], change: Callable[[History], History]) -> None:
    """Parked, given up and refused emails are no violations when the faults explain them, and they are counted."""
    history, plan = change(good()), plan_with(*kinds)
    assert check(history, plan) == []
    found = find_exceptions(history, plan)
    assert [*found.parked, *found.gave_up, *found.refused] == [ADA]


def test_a_failed_job_that_was_sent_is_a_violation() -> None:
    """Attempts that are used up say that the email was not sent, unless their reason says that it may have been."""
    history = fail(ADA, "1", "scripted", keep=True)(good())
    assert "failed" in {violation.invariant for violation in check(history, plan_with("provider-5xx"))}


def test_a_job_that_bull_took_is_settled_by_bull() -> None:
    """npm bull's worker completes it without sending it."""
    history = both(drop("accepted", ADA), drop("ledger", ADA))(good())
    assert check(replace(history, taken_by_bull={"1": ADA}), replace(QUIET, bull=True)) == []


def test_a_code_may_be_sent_twice_only_when_no_record_protected_it() -> None:
    """ADR 8: while Postgres is away, a code is sent without a record, and after lost writes perhaps again."""
    history = replace(
        good(), accepted=[*good().accepted, Accepted("d", BOB, "Your code", "k9", 9)],
        ledger=[*good().ledger, LedgerRow("m9", "2", BOB, "otp", 2, "retried")],
    )  # fmt: skip
    assert check(history, plan_with("redis-failover", "postgres-outage")) == []
    assert "sent once" in {found.invariant for found in check(history, plan_with("redis-failover"))}
    assert "sent once" in {found.invariant for found in check(history, plan_with("postgres-outage"))}


def test_outcome_that_redis_lost_with_its_job_is_an_exception() -> None:
    """The email was sent once; nobody is left who could tell the ledger."""
    sent = Accepted("l", "lost@mail.dev", "Welcome", "k7", 7)
    history = replace(good(), accepted=[*good().accepted, sent])
    assert "ledger" in {found.invariant for found in check(history, QUIET)}
    assert check(history, plan_with("redis-failover")) == []
    assert find_exceptions(history, plan_with("redis-failover")).unrecorded == ("lost@mail.dev",)


@pytest.mark.parametrize("row", [("queued", None, True), ("failed", LOST_REASON, False)])
def test_scheduled_email_that_redis_lost_with_its_request_is_an_exception(row: tuple[str, str | None, bool]) -> None:
    """It may have been sent, and is not sent again."""
    state, reason, recorded = row
    lost = ScheduledRow(USER, "task-reminder", state, "scheduled.1", reason, recorded)
    history = replace(drop("ledger", USER)(good()), scheduled=[lost])
    assert {found.invariant for found in check(history, QUIET)} >= {"scheduled", "ledger"}
    assert check(history, plan_with("redis-failover")) == []
    twice = replace(history, accepted=[*history.accepted, Accepted("x", USER, "Tasks", "k8", 8)])
    assert {found.invariant for found in check(twice, plan_with("redis-failover"))} == {"sent once"}


def test_scheduled_email_that_waits_without_a_request_is_a_violation() -> None:
    """Nothing says that it was sent: it has to get a new job."""
    waiting = ScheduledRow(USER, "task-reminder", "queued", "scheduled.1")
    history = replace(drop("accepted", USER)(drop("ledger", USER)(good())), scheduled=[waiting])
    assert "scheduled" in {found.invariant for found in check(history, plan_with("redis-failover"))}


def test_scheduled_email_that_bull_completed_is_no_violation() -> None:
    """A daemon had claimed it and lost its lock: the row ends as failed ten minutes later."""
    waiting = ScheduledRow(USER, "task-reminder", "queued", "scheduled.1")
    history = replace(drop("accepted", USER)(drop("ledger", USER)(good())), scheduled=[waiting])
    assert check(replace(history, taken_by_bull={"scheduled.1": USER}), replace(QUIET, bull=True)) == []
