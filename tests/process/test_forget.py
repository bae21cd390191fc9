"""`forget ADDRESS` as an operator runs it: preview, removal, what stays, and that the lists stay in effect."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.ledger import Ledger, ProviderEvent, RejectedEntry
from flowstate_daemon.database.migrations import Migrator
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.preferences import PreferenceStore, RecipientSettings
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.preferences import NO_PREFERENCES, Preferences
from flowstate_daemon.mail.pseudonyms import Pseudonyms
from flowstate_daemon.queue.audit import OperatorAction
from flowstate_daemon.redis_client.keys import Keys
from tests.process.test_database_commands import CommandOutput, run_command
from tests.support.clock import FakeClock
from tests.support.ledger_entries import START_MS, journal_entry, outcome

ADA, BOB = "ada@example.org", "bob@example.org"
SECRET, OLDER = "f3a91c05be24d68a7f3a91c05be24d68", "0ld3r9c05be24d68a7f3a91c05be24d6"
TABLES = (
    "mails",
    "provider_events",
    "journal_rejects",
    "operator_actions",
    "preferences",
    "suppressions",
    "unsubscribes",
)


class Stores:
    """Both stores, filled with what there may be about two people."""

    def __init__(self, redis: Redis, keys: Keys, valkey_url: str, database_url: str, pool: asyncpg.Pool) -> None:
        self.redis, self.keys, self.pool = redis, keys, pool
        self._environment = {
            "REDIS_URL": valkey_url,
            "FLOWSTATE_QUEUE_PREFIX": keys.prefix,
            "DATABASE_URL": database_url,
            "FLOWSTATE_HTTP_LINK_SECRET": SECRET,
        }

    async def forget(self, *arguments: str, **environment: str) -> CommandOutput:
        return await run_command("forget", *arguments, **{**self._environment, **environment})

    async def fill(self) -> None:
        lists = Suppressions(self.pool, FakeClock())
        ledger = Ledger(self.pool, FakeClock())
        for number, person in enumerate((ADA, BOB)):
            data = json.dumps({"type": "welcome", "to": person, "context": {}})
            await self.redis.hset(self.keys.job(f"j{number}"), mapping={"name": "welcome", "data": data, "opts": "{}"})
            await self.redis.zadd(self.keys("failed"), {f"j{number}": START_MS})
            await self.redis.rpush(self.keys.own("journal"), journal_entry(outcome(number + 10, to=person)))
            filtered = OperatorAction(START_MS, "eve", "queue retry", f"failed jobs (recipient contains '{person}')", 2)
            await self.redis.rpush(self.keys.own("audit"), msgspec.json.encode(filtered))
            await ledger.write([outcome(number, 1, to=person, outcome="retried", provider_id=None)])
            await ledger.write([outcome(number, 2, to=person, provider_id=f"p{number}")])
            for svix_id, address in ((f"a{number}", person), (f"b{number}", "")):  # found by the id of the email too
                event = ProviderEvent(svix_id, f"p{number}", "bounced", START_MS, address, None, "bounced")
                await ledger.record_events([event])
            await ledger.reject([RejectedEntry(f'{{"to":"{person.upper()}",'.encode(), "no JSON")])
            await lists.add(person, "manual", "asked by phone", actor="eve")
            await lists.unsubscribe(person, "task-reminder")
            preferences = PreferenceStore(self.pool, FakeClock())
            chosen = replace(await preferences.load(person), preferences=Preferences(morning_hour=7))
            await preferences.save(person, chosen)

    async def everything(self) -> str:
        """The text of all keys of the queue and of all rows of our schema."""
        parts = [repr(await self.redis.hgetall(self.keys.job(f"j{number}"))) for number in range(2)]
        parts += [repr(await self.redis.lrange(self.keys.own(name), 0, -1)) for name in ("journal", "audit")]
        for table in TABLES:
            rows = await self.pool.fetch(f"SELECT t::text AS text FROM flowstate_daemon.{table} AS t ORDER BY 1")
            parts += [row["text"] for row in rows]
        rejects = await self.pool.fetch("SELECT raw FROM flowstate_daemon.journal_rejects ORDER BY raw")
        return "\n".join([*parts, *(row["raw"].decode() for row in rejects)])


@pytest.fixture
async def stores(redis: Redis, keys: Keys, valkey_url: str, database_url: str) -> AsyncIterator[Stores]:
    async with open_pool(clean_dsn(database_url)) as pool:
        await Migrator(pool).apply()
        stores = Stores(redis, keys, valkey_url, database_url, pool)
        await stores.fill()
        yield stores


async def test_preview_changes_nothing(stores: Stores) -> None:
    """It shows what there is, as text or JSON. Without --yes and without a terminal that is a failure."""
    before = await stores.everything()
    shown = await stores.forget(ADA)
    assert (shown.code, "failed jobs" in shown.out, "add --yes" in shown.err) == (64, True, True)
    shown = await stores.forget(ADA, "--dry-run")
    assert (shown.code, "failed jobs" in shown.out, "nothing was removed" in shown.out) == (0, True, True)
    preview = await stores.forget(ADA, "--dry-run", "--json")
    assert preview.document["removed"] is None
    assert preview.document["found"] == {
        "jobs": {"failed": 1},
        "journal": 1,
        "audit": 1,
        "tables": {
            "provider_events": 2,
            "mails": 2,
            "journal_rejects": 1,
            "operator_actions": 1,
            "preferences": 1,
            "suppressions": 2,
            "unsubscribes": 1,
        },
        "in_flight": [],
        "in_stored_requests": 0,
    }
    assert await stores.everything() == before


async def test_person_is_removed_everywhere(stores: Stores) -> None:
    """No store contains the address any more, the action is recorded without it, and the other person keeps all."""
    before = (await stores.everything()).lower().count(BOB)
    removed = (await stores.forget("ADA@example.org", "--yes", "--json")).document
    assert removed["removed"] == removed["found"]
    assert removed["lists_kept_as_hash"] is True
    text = (await stores.everything()).lower()
    assert "ada@" not in text
    assert text.count(BOB) == before
    # In Redis and in Postgres: that the person was removed, and the older action of an operator
    assert text.count("a forgotten address") == 4
    again = await stores.forget(ADA, "--yes", "--json")
    assert (again.code, again.document["removed"]["jobs"], again.document["removed"]["journal"]) == (0, {}, 0)


async def test_entries_about_longer_addresses_stay(stores: Stores) -> None:
    """An entry that is no JSON is searched as text: part of another person's address does not count."""
    ledger = Ledger(stores.pool, FakeClock())
    others = [f"x{ADA}", f"x.{ADA}", f"{ADA}.example.com", f"{ADA}x", f"x+{ADA}", f"é{ADA}"]
    own = [f"to={ADA}", f"<{ADA}>", f'"{ADA}"', f"{ADA}.", f"é {ADA}\n", ADA.upper()]
    for text in (*others, *own):
        await ledger.reject([RejectedEntry(f"{{{text} ".encode(), "no JSON")])
    assert (await stores.forget(ADA, "--dry-run", "--json")).document["found"]["tables"]["journal_rejects"] == 1 + len(
        own
    )
    await stores.forget(ADA, "--yes")
    left = {row["raw"].decode() for row in await stores.pool.fetch("SELECT raw FROM flowstate_daemon.journal_rejects")}
    assert {f"{{{text} " for text in others} <= left
    assert len(left) == len(others) + 1


async def test_lists_stay_in_effect_as_a_hash(stores: Stores) -> None:
    """Whoever was suppressed or unsubscribed still is, also after a rotation of the secret; an operator can undo it."""
    await stores.forget(ADA, "--yes")
    known = Suppressions(stores.pool, Clock(), Pseudonyms([SECRET]))
    rotated = Suppressions(stores.pool, Clock(), Pseudonyms([OLDER, SECRET]))
    for lists in (known, rotated):
        status = (await lists.status_for(["Ada@example.org"]))["Ada@example.org"]
        assert (status.suppressed, status.unsubscribed) == ({"bounced", "manual"}, {"task-reminder"})
    unrelated = (await Suppressions(stores.pool, Clock(), Pseudonyms([OLDER])).status_for([ADA]))[ADA]
    assert (unrelated.suppressed, unrelated.unsubscribed) == (frozenset(), frozenset())
    assert [entry.note for entry in await known.find(ADA)] == [None, None]
    assert await rotated.remove(ADA) == ["bounced", "manual"]
    assert await rotated.remove_unsubscribes(ADA, actor="ben") == ["task-reminder"]
    status = (await known.status_for([ADA]))[ADA]
    assert (status.suppressed, status.unsubscribed) == (frozenset(), frozenset())


async def test_forgotten_person_can_choose_again(stores: Stores) -> None:
    """The page shows what stays in effect as a hash; another choice keeps it, and switching the kind on undoes it."""
    await stores.forget(ADA, "--yes")
    page = PreferenceStore(stores.pool, Clock(), Pseudonyms([OLDER, SECRET]))
    shown = await page.load("Ada@Example.org")
    assert shown.preferences == NO_PREFERENCES
    assert (shown.unsubscribed, shown.suppressed) == ({"task-reminder"}, {"bounced", "manual"})
    await page.save(ADA, replace(shown, preferences=Preferences(morning_hour=6)))
    assert (await page.load(ADA)).unsubscribed == {"task-reminder"}
    rows = await stores.pool.fetch("SELECT address FROM flowstate_daemon.unsubscribes WHERE address <> $1", BOB)
    assert [row["address"][:1] for row in rows] == ["#"]
    await page.save(ADA, RecipientSettings(Preferences(morning_hour=6)))
    assert (await page.load(ADA)).unsubscribed == frozenset()
    assert (
        await stores.pool.fetchval("SELECT count(*) FROM flowstate_daemon.unsubscribes WHERE address <> $1", BOB) == 0
    )


async def test_recipient_undoes_an_unsubscribe_that_is_a_hash(stores: Stores) -> None:
    """The button of the unsubscribe page finds it too."""
    await stores.forget(ADA, "--yes")
    lists = Suppressions(stores.pool, Clock(), Pseudonyms([SECRET]))
    assert await lists.resubscribe(ADA) is False
    assert await lists.resubscribe(ADA, "task-reminder") is True
    assert (await lists.status_for([ADA]))[ADA].unsubscribed == frozenset()


async def test_lists_are_dropped_on_request(stores: Stores) -> None:
    """--drop-lists leaves no trace, and needs no secret."""
    removed = await stores.forget(ADA, "--yes", "--drop-lists", "--json", FLOWSTATE_HTTP_LINK_SECRET="")
    assert (removed.code, removed.document["lists_kept_as_hash"]) == (0, False)
    rows = await stores.pool.fetch("SELECT address FROM flowstate_daemon.suppressions")
    assert {row["address"] for row in rows} == {BOB}


async def test_without_a_key_for_the_hash_nothing_is_removed(stores: Stores) -> None:
    """A person who asked for no emails must not get them again: the command says what to set."""
    before = await stores.everything()
    refused = await stores.forget(ADA, "--yes", FLOWSTATE_HTTP_LINK_SECRET="")
    assert (refused.code, "FLOWSTATE_HTTP_LINK_SECRET" in refused.err, "--drop-lists" in refused.err) == (
        78,
        True,
        True,
    )
    assert await stores.everything() == before


async def test_job_of_a_worker_is_named(stores: Stores) -> None:
    """The exit code says that something is left, and the output which job."""
    await stores.redis.hset(
        stores.keys.job("busy"), mapping={"name": "otp", "data": json.dumps({"to": ADA}), "opts": "{}"}
    )
    await stores.redis.lpush(stores.keys("active"), "busy")
    await stores.redis.set(stores.keys.lock("busy"), "another/1", px=60_000)
    left = await stores.forget(ADA, "--yes")
    assert (left.code, "busy" in left.out, "run the command again" in left.out) == (1, True, True)


async def test_without_postgres_the_queue_is_searched(stores: Stores) -> None:
    """Without DATABASE_URL there is only Redis."""
    removed = await stores.forget(ADA, "--yes", "--json", DATABASE_URL="")
    assert (removed.document["removed"]["jobs"], removed.document["removed"]["tables"]) == ({"failed": 1}, {})
    assert not await stores.redis.exists(stores.keys.job("j0"))


async def test_unknown_person(stores: Stores) -> None:
    """Nothing is found, which is no failure; text without an @ is a usage error."""
    assert (await stores.forget("nobody@example.org", "--dry-run")).out == "nothing to remove\n"
    assert (await stores.forget("nobody@example.org", "--yes")).code == 0
    assert (await stores.forget("ada")).code == 64
