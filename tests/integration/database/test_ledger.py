"""The ledger stores everything once, in any order; invalid entries do not hold up the others."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from flowstate_daemon.database import ledger as ledger_module
from flowstate_daemon.database.ledger import LATEST_MS, Decision, Ledger, RejectedEntry, parse_outcome
from flowstate_daemon.database.mail_history import MailHistory
from flowstate_daemon.database.pool import acquire
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.message import ProviderEvent
from tests.support.clock import START, FakeClock
from tests.support.ledger_entries import DECISIONS, START_MS, journal_entry, outcome

HOSTILE = "NUL \0, half an emoji \ud83d, ; DROP TABLE users; -- ' \" \\ $1 %s \u202e \x1b[31m"


async def rows_in(pool: asyncpg.Pool, table: str) -> list[asyncpg.Record]:
    async with acquire(pool) as connection:
        return list(await connection.fetch(f"SELECT * FROM flowstate_daemon.{table}"))


def event(type_: str, second: int = 0, **changes: Any) -> ProviderEvent:
    made = ProviderEvent(f"msg-{type_}-{second}", "re-1", type_, START_MS + second * 1000, "ada@example.org")
    return replace(made, **changes)


async def test_outcome_is_stored_completely(pool: asyncpg.Pool, ledger: Ledger) -> None:
    """Every field of an entry is in its row."""
    entry = outcome(7, attempt=2, reason="the provider said no", outcome="failed")
    assert await ledger.write([entry]) == 1
    (row,) = await rows_in(pool, "mails")
    assert dict(row) == {
        "key": entry.key,
        "outcome": "failed",
        "mail": f"bull:email:7:{START_MS}",
        "at": START + timedelta(seconds=7, milliseconds=2),
        "address": "ada@example.org",
        "kind": "welcome",
        "job_id": "7",
        "attempt": 2,
        "provider_id": "re-7",
        "reason": "the provider said no",
        "decisions": [{"check": step.check, "result": step.result, "reason": step.reason} for step in DECISIONS],
    }


@pytest.mark.parametrize("together", [True, False])
async def test_attempt_that_was_sent_twice_has_two_rows(pool: asyncpg.Pool, ledger: Ledger, together: bool) -> None:
    """Redis forgot the first time, the provider did not: both ids are there, however often they are written."""
    first, second = outcome(7), outcome(7, provider_id="re-other")
    for _ in range(2):
        for entries in [[first, second]] if together else [[first], [second]]:
            await ledger.write([*entries, outcome(8)])
    rows = await rows_in(pool, "mails")
    assert sorted(row["provider_id"] for row in rows) == ["re-7", "re-8", "re-other"]
    (mail,) = [one for one in await MailHistory(pool).explain("ada@example.org") if one.job_id == "7"]
    assert sorted(attempt.provider_id or "" for attempt in mail.attempts) == ["re-7", "re-other"]


@pytest.mark.parametrize("other", ["accepted-earlier", None, "", "re-7"])
async def test_email_that_the_provider_recognized_has_one_row(
    pool: asyncpg.Pool, ledger: Ledger, other: str | None
) -> None:
    """Its id is not known the second time, or is the same: that is no second email."""
    await ledger.write([outcome(7), outcome(7, provider_id=other)])
    await ledger.write([outcome(7, provider_id=other)])
    assert [row["provider_id"] for row in await rows_in(pool, "mails")] == ["re-7"]
    await ledger.write([outcome(8, provider_id=other or "accepted-earlier"), outcome(8)])
    assert len(await rows_in(pool, "mails")) == (3 if other == "re-7" else 2)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("backwards", [True, False])
@pytest.mark.parametrize(
    ("first", "second", "rows"),
    [
        ("re-7", "re-7", 1),
        ("re-7", "accepted-earlier", 1),
        ("re-7", "", 1),
        ("", "accepted-earlier", 1),
        ("accepted-earlier", "accepted-earlier", 1),
        ("re-7", "re-other", 2),
        (None, None, 2),
    ],
)
async def test_later_attempt_that_sent_nothing_new_has_no_row(
    pool: asyncpg.Pool,
    ledger: Ledger,
    first: str | None,
    second: str | None,
    rows: int,
    backwards: bool,
    together: bool,
) -> None:
    """Redis does not know that attempt 2 succeeded, and attempt 3 gets the same answer: the email was sent once."""
    attempts = [outcome(7, attempt=2, provider_id=first), outcome(7, attempt=3, provider_id=second)]
    entries = [
        *(attempts[::-1] if backwards else attempts),
        outcome(8, provider_id=first),
        outcome(7, outcome="retried"),
    ]
    for _ in range(2):
        for batch in [entries] if together else [[entry] for entry in entries]:
            await ledger.write(batch)
    sent = [row for row in await rows_in(pool, "mails") if row["outcome"] == "sent"]
    ids = {row["provider_id"] for row in sent if row["job_id"] == "7"}
    assert len([row for row in sent if row["job_id"] == "7"]) == rows
    assert {first, second} - {"", "accepted-earlier"} <= ids, "an id is known, or becomes known"
    assert len([row for row in sent if row["job_id"] == "8"]) == 1, "another email may have the same id"
    assert await rows_in(pool, "journal_rejects") == []


async def test_two_daemons_write_the_same_email_at_once(pool: asyncpg.Pool, ledger: Ledger) -> None:
    """Each of 500 emails has one row, whichever daemon was first, and neither waits for the other forever."""
    second = [outcome(number, attempt=2) for number in range(500)]
    third = [outcome(number, attempt=3) for number in reversed(range(500))]
    counts = await asyncio.gather(*(ledger.write(entries) for entries in [second, third] * 3))
    assert sum(counts) == 500
    assert len(await rows_in(pool, "mails")) == 500


async def test_write_is_idempotent(pool: asyncpg.Pool, ledger: Ledger) -> None:
    """The same entries, twice in one call and once more, are stored once; the first version stays."""
    entries = [outcome(number) for number in range(50)]
    assert await ledger.write([*entries, *reversed(entries)]) == 50
    assert await ledger.write([replace(entry, reason="later") for entry in entries]) == 0
    assert await ledger.write([]) == 0
    assert {row["reason"] for row in await rows_in(pool, "mails")} == {None}


async def test_one_attempt_may_have_two_outcomes(ledger: Ledger) -> None:
    """An attempt that is retried and later found sent has both outcomes."""
    assert await ledger.write([outcome(outcome="retried"), outcome(outcome="sent")]) == 2


async def test_concurrent_writers_do_not_deadlock(pool: asyncpg.Pool, ledger: Ledger) -> None:
    """Five writers with the same entries in different orders succeed, and each entry is stored once."""
    entries = [outcome(number) for number in range(500)]
    orders = (entries, entries[::-1], entries[250:] + entries[:250], entries[::2] + entries[1::2], entries)
    assert sum(await asyncio.gather(*(ledger.write(order) for order in orders))) == 500
    assert len(await rows_in(pool, "mails")) == 500


async def test_hostile_text_is_stored_as_text(pool: asyncpg.Pool, ledger: Ledger) -> None:
    """NUL bytes, broken Unicode and SQL in any field are stored as harmless text."""
    raw = journal_entry(
        outcome(1, reason="@@", decisions=(Decision("@@", "@@", "@@"),), kind="@@", job_id="@@", to="@@")
    )
    for hostile in (rb"NUL \u0000 half \ud83d '; DROP TABLE users; --", b"no UTF-8: \xff\xfe", rb"\u202e \u001b[31m"):
        assert await ledger.write([parse_outcome(raw.replace(b"@@", hostile))]) == 1
        (row,) = await rows_in(pool, "mails")
        for value in (row["reason"], row["kind"], row["job_id"], row["address"], *row["decisions"][0].values()):
            assert value
            assert "\0" not in value
        async with acquire(pool) as connection:
            await connection.execute("DELETE FROM flowstate_daemon.mails")


async def test_entries_rejected_by_postgres_do_not_hold_up_the_rest(pool: asyncpg.Pool, ledger: Ledger) -> None:
    """Of 500 entries 497 are stored, and three are rejected with the reason."""
    entries = [outcome(number) for number in range(500)]
    entries[3] = replace(entries[3], reason="raw NUL \0")
    entries[250] = replace(entries[250], at=LATEST_MS * 10)
    entries[499] = replace(entries[499], attempt=2**40)
    assert await ledger.write(entries) == 497
    assert len(await rows_in(pool, "mails")) == 497
    rejects = await rows_in(pool, "journal_rejects")
    assert len(rejects) == 3
    assert all(row["reason"] and row["at"] == START for row in rejects)
    assert await ledger.write(entries) == 0
    assert len(await rows_in(pool, "journal_rejects")) == 3


async def test_rejects_are_stored_raw_and_once(pool: asyncpg.Pool, ledger: Ledger) -> None:
    """Any bytes can be rejected, repeated ones are stored once, and huge ones truncated."""
    rejects = [
        RejectedEntry(b"\0\xff not JSON", "why \0"),
        RejectedEntry(b"x" * 100_000, "too long"),
        RejectedEntry(b"", "empty"),
    ]
    assert await ledger.reject(rejects) == 3
    assert await ledger.reject(rejects) == 0
    assert {len(row["raw"]) for row in await rows_in(pool, "journal_rejects")} == {11, 8_192, 0}


ORDERLY = ("sent", "delivery_delayed", "delivered", "opened")


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1), (1, 3, 0, 2)])
async def test_furthest_state_wins_in_any_order(pool: asyncpg.Pool, ledger: Ledger, order: tuple[int, ...]) -> None:
    """Events may arrive in any order, repeatedly, and before the row of their email."""
    for number in (*order, *order):
        await ledger.record_events([event(ORDERLY[number], number)])
    await ledger.write([outcome()])
    (record,) = await MailHistory(pool).explain("ada@example.org")
    assert record.state == "opened"
    assert record.flags == ()
    assert [received.type for received in record.events] == list(ORDERLY)


@pytest.mark.parametrize(
    ("events", "state", "marks"),
    [
        ([event("opened", 5), event("clicked", 6)], "clicked", ()),
        ([event("clicked", 5), event("opened", 6)], "opened", ()),
        ([event("delivered", 5), event("sent", 9)], "delivered", ()),
        ([event("complained", 9), event("delivered", 5)], "delivered", ("complained",)),
        ([event("bounced", 2), event("sent", 1)], "sent", ("bounced",)),
        ([event("failed", 1)], None, ("failed",)),
        ([event("sent", 1), event("something_new", 2)], "sent", ()),
    ],
)
async def test_state_ranks_before_time_and_problems_are_flags(
    pool: asyncpg.Pool, ledger: Ledger, events: list[ProviderEvent], state: str | None, marks: tuple[str, ...]
) -> None:
    """The state is the one of highest rank, the latest of equals; problems are reported as flags."""
    await ledger.write([outcome()])
    assert (await ledger.record_events(events)).new == len(events)
    (record,) = await MailHistory(pool).explain("ada@example.org")
    assert (record.state, record.flags) == (state, marks)


async def test_new_event_suppresses_and_a_repeated_one_does_not(
    pool: asyncpg.Pool, ledger: Ledger, clock: FakeClock
) -> None:
    """A hard bounce adds a suppression with its event; after an operator removed it, a replay changes nothing."""
    suppressions = Suppressions(pool, clock)
    await ledger.write([outcome()])
    bounce = event("bounced", 3, address="ADA@example.org", reason="no such mailbox", suppress="bounced")
    assert (await ledger.record_events([bounce, bounce])).new == 1
    (found,) = await suppressions.find("ada@example.org")
    assert (found.reason, found.note, found.since) == ("bounced", "no such mailbox", START + timedelta(seconds=3))
    await suppressions.remove("ada@example.org")
    assert (await ledger.record_events([bounce])).new == 0
    assert await suppressions.find("ada@example.org") == []


OTHER_BRAND, OWN = "news.example", "flowstate.example"


@pytest.mark.parametrize(
    ("reason", "sender_domain", "known", "obeyed"),
    [
        ("complained", OWN, None, True),
        ("complained", OTHER_BRAND, None, False),
        ("complained", "", None, False),
        ("complained", OTHER_BRAND, "address", False),
        ("complained", OTHER_BRAND, "id", True),
        ("bounced", OTHER_BRAND, None, False),
        ("bounced", OWN, None, False),
        ("bounced", OTHER_BRAND, "address", True),
        ("bounced", OTHER_BRAND, "id", True),
        ("suppressed", OTHER_BRAND, None, False),
        ("suppressed", OWN, "address", True),
        ("suppressed", OWN, "id", True),
    ],
)
async def test_report_is_obeyed_only_if_it_is_about_us(
    pool: asyncpg.Pool,
    ledger: Ledger,
    clock: FakeClock,
    reason: str,
    sender_domain: str,
    known: str | None,
    obeyed: bool,
) -> None:
    """Another brand on the same account does not change our list: its report is stored, and that is all."""
    if known is not None:
        await ledger.write([outcome(provider_id="re-1" if known == "id" else "re-other")])
    report = event(reason, suppress=reason, sender_domain=sender_domain)
    recorded = await ledger.record_events([report], own_domain=OWN)
    assert (recorded.new, report.svix_id in recorded.obeyed) == (1, obeyed)
    found = await Suppressions(pool, clock).find("ada@example.org")
    assert [one.reason for one in found] == ([reason] if obeyed else [])
    (row,) = await rows_in(pool, "provider_events")
    assert row["noted"] == (None if obeyed else reason)


async def test_unknown_own_domain_is_nobodys(ledger: Ledger) -> None:
    """Without a sender, as in commands that send nothing, an event without one is not ours either."""
    recorded = await ledger.record_events([event("complained", suppress="complained")])
    assert recorded.obeyed == frozenset()


@pytest.mark.parametrize("reason", ["bounced", "complained", "suppressed"])
async def test_report_before_its_email_is_obeyed_later(
    pool: asyncpg.Pool, ledger: Ledger, clock: FakeClock, reason: str
) -> None:
    """Outcomes wait in the journal for up to hours: the report counts as soon as the ledger has its email."""
    suppressions = Suppressions(pool, clock)
    await ledger.record_events(
        [event(reason, 3, suppress=reason, reason="why"), event("bounced", 4, suppress="bounced")]
    )
    await ledger.write([outcome(7, to="ada@example.org")])
    assert await suppressions.find("ada@example.org") == []
    await ledger.write([outcome()])
    assert {one.reason for one in await suppressions.find("ada@example.org")} == {reason, "bounced"}
    await suppressions.remove("ada@example.org")
    await ledger.write([outcome(), outcome(attempt=2)])
    assert await ledger.obey_noted_events() == 0
    assert await suppressions.find("ada@example.org") == []


async def test_report_missed_by_the_writer_is_found_by_the_pruner(
    pool: asyncpg.Pool, ledger: Ledger, clock: FakeClock
) -> None:
    """A report and its email may be written at the same moment, each without seeing the other."""
    await ledger.write([outcome()])
    async with acquire(pool) as connection:
        await connection.execute(
            """INSERT INTO flowstate_daemon.provider_events (svix_id, provider_id, type, at, address, noted)
            VALUES ('m', 're-1', 'bounced', now(), 'ada@example.org', 'bounced'),
            ('n', 're-2', 'bounced', now(), 'ben@example.org', 'bounced')"""
        )
    await ledger.prune(30)
    assert [row["address"] for row in await rows_in(pool, "suppressions")] == ["ada@example.org"]


async def test_concurrent_reports_and_outcomes_never_deadlock(pool: asyncpg.Pool, ledger: Ledger) -> None:
    """Two daemons write the same outcomes while reports about them arrive in any order; none is lost."""
    numbers = range(60)
    reports = [
        event("bounced", n, provider_id=f"re-{n}", address=f"p{n}@example.org", suppress="bounced") for n in numbers
    ]
    outcomes = [outcome(n, to=f"p{n}@example.org") for n in numbers]
    await asyncio.gather(
        ledger.write(outcomes),
        ledger.record_events(reports),
        ledger.write(outcomes[::-1]),
        *(ledger.record_events([report]) for report in reports[::-3]),
        ledger.obey_noted_events(),
    )
    await ledger.obey_noted_events()
    assert len(await rows_in(pool, "suppressions")) == 60


async def test_provider_lifts_only_its_own_suppression(pool: asyncpg.Pool, ledger: Ledger, clock: FakeClock) -> None:
    """When the provider delivers again, what it reported before ends; a bounce or an operator's entry stays."""
    suppressions = Suppressions(pool, clock)
    await ledger.write([outcome()])
    await ledger.record_events([event("suppressed", 5, suppress="suppressed"), event("bounced", 5, suppress="bounced")])
    assert await ledger.lift_provider_suppression(event("suppression.removed", 4)) == 0
    assert await ledger.lift_provider_suppression(event("suppression.removed", 6, address="ADA@example.org")) == 1
    assert [one.reason for one in await suppressions.find("ada@example.org")] == ["bounced"]


async def test_hostile_events_are_stored(pool: asyncpg.Pool, ledger: Ledger) -> None:
    """NUL bytes, huge texts and impossible times in a webhook never raise."""
    long = "x\0" * 5_000
    events = [ProviderEvent(long, long, long, at, long, HOSTILE) for at in (-1, 2**60)]
    assert (await ledger.record_events(events)).new == 1
    assert (await ledger.record_events([])).new == 0


async def test_concurrent_events_are_counted_once(pool: asyncpg.Pool, ledger: Ledger) -> None:
    """When five daemons receive the same event, it is new to one of them."""
    await ledger.write([outcome()])
    events = [event("bounced", n, address=f"p{n % 20}@example.org", suppress="bounced") for n in range(200)]
    orders = (events, events[::-1], events[100:] + events[:100], events[::2] + events[1::2], events)
    recorded = await asyncio.gather(*(ledger.record_events(order) for order in orders))
    assert sum(one.new for one in recorded) == 200
    assert len(await rows_in(pool, "suppressions")) == 20


async def test_prune_deletes_old_rows_in_small_batches(
    pool: asyncpg.Pool, ledger: Ledger, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Old rows are deleted, also by concurrent prunes; recent rows and the suppressions stay."""
    monkeypatch.setattr(ledger_module, "PRUNE_BATCH_SIZE", 7)
    day_ms = 86_400_000
    await ledger.write([outcome(number, at=START_MS - number * day_ms) for number in range(100)])
    await ledger.record_events([event("bounced", -number * 86_400, suppress="bounced") for number in range(100)])
    await ledger.reject([RejectedEntry(b"old", "old")])
    clock.advance(60)
    pruned = await asyncio.gather(ledger.prune(30), ledger.prune(30), ledger.prune(30))
    assert sum(pruned) == 70 + 70
    clock.advance(31 * 86_400)
    assert await ledger.prune(30) == 30 + 30 + 1
    assert len(await rows_in(pool, "suppressions")) == 1


async def test_explain_returns_newest_first(pool: asyncpg.Pool, ledger: Ledger) -> None:
    """Emails to an address by their last attempt, newest first; attempts in order with their decisions."""
    late = START_MS + 3_600_000
    await ledger.write(
        [
            outcome(3),
            outcome(1, 3, at=late, provider_id="re-1"),
            outcome(1, 1, outcome="retried", provider_id=None, reason="the provider was ill"),
            outcome(1, 2, outcome="retried", provider_id=None),
            outcome(
                2, outcome="skipped", provider_id=None, decisions=(Decision("preference", "skip", "unsubscribed"),)
            ),
            outcome(4, to="bob@example.org"),
        ]
    )
    records = MailHistory(pool)
    output = await records.explain("  Ada@Example.ORG ")
    assert [record.job_id for record in output] == ["1", "3", "2"]
    assert [one.outcome for one in output[0].attempts] == ["retried", "retried", "sent"]
    assert output[0].attempts[0].reason == "the provider was ill"
    assert output[0].outcome == "sent"
    assert output[2].attempts[0].decisions == (Decision("preference", "skip", "unsubscribed"),)
    assert [record.job_id for record in await records.explain("ada@example.org", 2)] == ["1", "3"]
    assert await records.explain("nobody@example.org") == []
    assert await records.explain(HOSTILE) == []
