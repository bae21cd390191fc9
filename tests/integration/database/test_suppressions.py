"""Suppressions and unsubscribes: adding, removing, paging, and the lookup before each batch."""

from __future__ import annotations

import asyncio

import asyncpg
import pytest

from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.policy import UNKNOWN_RECIPIENT, RecipientStatus
from tests.support.clock import START, FakeClock


@pytest.fixture
def suppressions(pool: asyncpg.Pool, clock: FakeClock) -> Suppressions:
    return Suppressions(pool, clock)


async def test_address_is_found_in_any_spelling(suppressions: Suppressions) -> None:
    """Case and surrounding blanks do not matter, in storage and in lookups."""
    assert await suppressions.add(" Ada@Example.ORG", "manual", "asked by phone\0") is True
    assert await suppressions.add("ada@example.org", "manual") is False
    (found,) = await suppressions.find("ADA@EXAMPLE.ORG ")
    assert (found.address, found.since, found.note) == (
        "ada@example.org",
        START,
        "asked by phone\N{REPLACEMENT CHARACTER}",
    )
    assert await suppressions.remove("aDa@example.org") == ["manual"]
    assert await suppressions.remove("ada@example.org") == []


async def test_reasons_are_stored_separately_and_removed_together(suppressions: Suppressions) -> None:
    """A complaint does not hide a bounce; removing an address removes all its reasons."""
    for reason in ("complained", "bounced"):
        await suppressions.add("ada@example.org", reason)
    assert [one.reason for one in await suppressions.find("ada@example.org")] == ["bounced", "complained"]
    assert await suppressions.remove("ada@example.org") == ["bounced", "complained"]


async def test_unknown_reason_raises_value_error(suppressions: Suppressions) -> None:
    """Only reasons that the policy knows can be stored."""
    with pytest.raises(ValueError, match="not a reason"):
        await suppressions.add("ada@example.org", "mood")


async def test_pages_return_every_row_once(suppressions: Suppressions) -> None:
    """Page after page gives every row once, ordered by address, also when one address crosses pages."""
    for number in range(5):
        for reason in ("bounced", "manual"):
            await suppressions.add(f"p{number}@example.org", reason)
    seen, page = [], await suppressions.page(3)
    while page:
        seen += page
        page = await suppressions.page(3, after=page[-1])
    assert [(one.address[:2], one.reason) for one in seen] == [
        (f"p{number}", reason) for number in range(5) for reason in ("bounced", "manual")
    ]


async def test_resubscribe_to_one_kind_and_to_all(suppressions: Suppressions) -> None:
    """Each unsubscribe is undone alone: who comes back to all does not get a kind that they left one by one."""
    for kind in ("task-reminder", "focus-report", "*"):
        assert await suppressions.unsubscribe("ada@example.org", kind) is True
    assert await suppressions.unsubscribe("ada@example.org") is False
    assert await suppressions.resubscribe("Ada@example.org", "focus-report") is True
    assert (await suppressions.status_for(["ada@example.org"]))["ada@example.org"].unsubscribed == {
        "*",
        "task-reminder",
    }
    assert await suppressions.resubscribe("ada@example.org") is True
    assert await suppressions.resubscribe("ada@example.org") is False
    assert (await suppressions.status_for(["ada@example.org"]))["ada@example.org"].unsubscribed == {"task-reminder"}


async def test_operator_undoes_all_kinds_or_one(suppressions: Suppressions) -> None:
    """Unlike a recipient's way back, the command without a kind undoes every unsubscribe; each leaves a trace."""
    for kind in ("task-reminder", "focus-report", "*"):
        await suppressions.unsubscribe("ada@example.org", kind)
    assert await suppressions.remove_unsubscribes("Ada@example.org", "focus-report", actor="ben") == ["focus-report"]
    assert await suppressions.remove_unsubscribes("ada@example.org", actor="ben") == ["*", "task-reminder"]
    assert await suppressions.remove_unsubscribes("ada@example.org", actor="ben") == []
    assert [(one.actor, one.action, one.count) for one in await suppressions.actions()] == [
        ("ben", "unsubscribed remove", 0),
        ("ben", "unsubscribed remove", 2),
        ("ben", "unsubscribed remove (focus-report)", 1),
    ]


async def test_status_of_500_addresses_in_one_query(pool: asyncpg.Pool, suppressions: Suppressions) -> None:
    """Every address has a status under its given spelling, unknown and odd ones too."""
    await suppressions.add("p7@example.org", "bounced")
    await suppressions.add("p7@example.org", "complained")
    await suppressions.unsubscribe("P9@example.org", "task-reminder")
    asked = [f"P{number}@example.org" for number in range(496)] + ["p7@example.org", "", "NUL\0@example.org", "\ud800"]
    facts = await suppressions.status_for(asked)
    assert set(facts) == set(asked)
    assert facts["P7@example.org"] == facts["p7@example.org"] == RecipientStatus(frozenset({"bounced", "complained"}))
    assert facts["P9@example.org"] == RecipientStatus(unsubscribed=frozenset({"task-reminder"}))
    assert facts["P8@example.org"] == facts[""] == facts["\ud800"] == UNKNOWN_RECIPIENT
    assert await suppressions.status_for([]) == {}


async def test_concurrent_adds_add_once(suppressions: Suppressions) -> None:
    """Several daemons may add the same suppression at the same time."""
    added = await asyncio.gather(*(suppressions.add("ada@example.org", "bounced") for _ in range(5)))
    assert sorted(added) == [False] * 4 + [True]


async def test_actions_on_the_list_leave_a_trace(suppressions: Suppressions) -> None:
    """Who, what, how many, when; also of an action that changed nothing. Recipients leave none."""
    await suppressions.add("Ada@example.org", "manual", actor="ben on vm-1")
    await suppressions.add("ada@example.org", "manual", actor="ben on vm-1")
    await suppressions.remove("ada@example.org", actor="cleo on vm-2")
    await suppressions.unsubscribe("ada@example.org")
    found = await suppressions.actions()
    assert [(one.actor, one.action, one.target, one.count) for one in found] == [
        ("cleo on vm-2", "suppression remove", "ada@example.org", 1),
        ("ben on vm-1", "suppression add (manual)", "ada@example.org", 0),
        ("ben on vm-1", "suppression add (manual)", "ada@example.org", 1),
    ]
    assert {one.at for one in found} == {START}
    assert [one.actor for one in await suppressions.actions(1)] == ["cleo on vm-2"]
