"""The language of users, read from the application's table as far as the role may."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.config.loader import load
from flowstate_daemon.daemon.builders import build_user_preferences
from flowstate_daemon.database.app_data import NOTIFICATIONS
from flowstate_daemon.database.app_database import AppDatabase
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.recipients import DENIED_RETRY_S, UserPreferenceReader, UserPreferences
from flowstate_daemon.dev.embedded import free_port
from tests.support.clock import FakeClock

REFUSALS = (
    "REVOKE SELECT ON users FROM reader",
    "ALTER TABLE users DROP COLUMN preferences",
    "ALTER TABLE users ALTER COLUMN preferences TYPE text",
    "DROP TABLE users CASCADE",
    "DROP SCHEMA public CASCADE",
)


async def languages_of(reader: UserPreferenceReader, addresses: Sequence[str]) -> dict[str, str]:
    """The languages that the reader finds."""
    found = await reader.preferences_of(addresses)
    return {address: one.language for address, one in found.items() if one.language}


@pytest.fixture
def languages(bare_pool: asyncpg.Pool, clock: FakeClock) -> UserPreferenceReader:
    return UserPreferenceReader(AppDatabase(bare_pool), clock)


async def add(pool: asyncpg.Pool, preferences: Sequence[Any], address: str = "p{}@example.org") -> list[str]:
    """People with these preferences; returns their addresses."""
    addresses = [address.format(number) for number in range(len(preferences))]
    await pool.executemany(
        """INSERT INTO users (id, email, password, preferences, "updatedAt") VALUES ($1, $1, '', $2, now())""",
        list(zip(addresses, preferences, strict=True)),
    )
    return addresses


async def test_chosen_languages_are_returned(bare_pool: asyncpg.Pool, languages: UserPreferenceReader) -> None:
    """Users with a language get it as they wrote it; others are missing."""
    await add(bare_pool, [{"language": "fr"}, {"language": "pt-BR"}, {"language": None}, {}, None])
    asked = [f"p{number}@example.org" for number in range(6)]
    assert await languages_of(languages, asked) == {"p0@example.org": "fr", "p1@example.org": "pt-BR"}


async def test_address_is_found_in_another_spelling(bare_pool: asyncpg.Pool, languages: UserPreferenceReader) -> None:
    """Most applications store addresses in lower case, some as typed."""
    await add(bare_pool, [{"language": "fr"}])
    await add(bare_pool, [{"language": "fr"}], "Q{}@example.org")
    found = await languages_of(languages, ["P0@Example.org", "Q0@example.org", "q0@example.org", "a\0b", "\ud800"])
    assert found == {"P0@Example.org": "fr", "Q0@example.org": "fr", "q0@example.org": "fr"}


@pytest.mark.parametrize(
    ("stored", "asked"),
    [
        ("DORA@EXAMPLE.NET", ["DORA@EXAMPLE.NET", "DORA@example.net", "dora@example.net", "Dora@Example.Net"]),
        ("dora@example.net", ["DORA@EXAMPLE.NET", "Dora@example.net"]),
        ("dOrA@eXaMpLe.net", ["DORA@EXAMPLE.NET", "dora@example.net"]),
        ("eva@münchen.example", ["eva@münchen.example", "eva@xn--mnchen-3ya.example", "EVA@XN--mnchen-3ya.example"]),
        ("Eva@MÜNCHEN.example", ["Eva@MÜNCHEN.example", "eva@münchen.example", "Eva@xn--mnchen-3ya.example"]),
        ("eva@xn--mnchen-3ya.example", ["eva@münchen.example", "Eva@MÜNCHEN.EXAMPLE"]),
        ("eva@XN--MNCHEN-3YA.example", ["eva@münchen.example"]),
    ],
)
async def test_any_spelling_of_an_address_is_the_same_user(
    bare_pool: asyncpg.Pool, languages: UserPreferenceReader, stored: str, asked: list[str]
) -> None:
    """Capitals and the two forms of an international domain, in the table and in the job."""
    await add(bare_pool, [{"language": "fr"}], stored)
    await add(bare_pool, [{"language": "en"}], "somebody.else@example.net")
    assert await languages_of(languages, asked) == dict.fromkeys(asked, "fr")


@pytest.mark.parametrize("stored", ["DORA@EXAMPLE.NET", "dora@example.net", "dora@Example.net"])
@pytest.mark.parametrize("notifications", [{"taskReminders": False}, False])
async def test_time_zone_and_refusals_are_found_in_any_spelling(
    bare_pool: asyncpg.Pool, languages: UserPreferenceReader, stored: str, notifications: Any
) -> None:
    """Everything that is in the preferences comes from the same row, through the index or the scan."""
    await add(bare_pool, [{"timezone": "Asia/Tokyo", "notifications": notifications}], stored)
    refused = frozenset(NOTIFICATIONS) if notifications is False else frozenset({"task-reminder"})
    for asked in ("dora@example.net", "DORA@EXAMPLE.NET", "Dora@example.net"):
        assert await languages.preferences_of([asked]) == {asked: UserPreferences(None, "Asia/Tokyo", refused)}


async def test_users_that_differ_in_capitals_keep_their_own_language(
    bare_pool: asyncpg.Pool, languages: UserPreferenceReader
) -> None:
    """The column is unique with its capitals, so that both users exist; each gets what is stored for it."""
    for address, preferences in (
        ("Bob@example.org", {"language": "fr"}),
        ("bob@example.org", {"language": "en"}),
        ("BOB@example.org", {}),
        ("ann@bücher.example", {"language": "de"}),
        ("Ann@xn--bcher-kva.example", {"language": "fr"}),
    ):
        await add(bare_pool, [preferences], address)
    asked = {
        "Bob@example.org": "fr",
        "Bob@EXAMPLE.org": "fr",
        "bob@example.org": "en",
        "ann@bücher.example": "de",
        "ann@xn--bcher-kva.example": "de",
        "Ann@bücher.example": "fr",
    }
    assert await languages_of(languages, [*asked, "BOB@example.org"]) == asked
    for address, language in asked.items():
        assert await languages_of(languages, [address]) == {address: language}


async def test_slow_scan_is_given_up_and_the_indexed_query_goes_on(
    bare_pool: asyncpg.Pool, languages: UserPreferenceReader, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    """A large table without an index on lower(email) delays no email; the remedy is logged."""
    await add(bare_pool, [{"language": "fr"}, {"language": "fr"}], "Q{}@example.org")
    monkeypatch.setattr("flowstate_daemon.database.recipients.SCAN_TIMEOUT_S", 0.0)
    with capture_logs() as said:
        for _ in range(2):
            found = await languages_of(languages, ["Q0@example.org", "q1@example.org"])
            assert found == {"Q0@example.org": "fr"}
    assert [(event["event"], event["remedy"]) for event in said] == [
        ("user_languages_scan_slow", 'CREATE INDEX ON "public".users (lower(email))')
    ]
    monkeypatch.undo()
    clock.advance(DENIED_RETRY_S)
    assert await languages_of(languages, ["q1@example.org"]) == {"q1@example.org": "fr"}


async def test_schema_of_the_url_is_read(bare_pool: asyncpg.Pool, clock: FakeClock, database_url: str) -> None:
    """`?schema=` names the schema of the application's tables, also for the languages of users."""
    await bare_pool.execute('CREATE SCHEMA "Flow State"; ALTER TABLE users SET SCHEMA "Flow State"')
    languages = UserPreferenceReader(AppDatabase(bare_pool, "Flow State"), clock)
    await bare_pool.execute(
        """INSERT INTO "Flow State".users (id, email, password, preferences, "updatedAt")
        VALUES ('1', 'p0@example.org', '', '{"language": "fr"}', now())"""
    )
    assert await languages_of(languages, ["p0@example.org"]) == {"p0@example.org": "fr"}
    separator = "&" if "?" in database_url else "?"
    url = f"{database_url}{separator}schema=Flow%20State"
    config = load({"DATABASE_URL": url, "FLOWSTATE_DELIVERY": "outbox"})
    assert await languages_of(build_user_preferences(config, bare_pool, clock), ["p0@example.org"]) == {
        "p0@example.org": "fr"
    }


@pytest.mark.parametrize("nonsense", ["fr", ["fr"], 7, True, {"language": ["fr"]}, {"language": {"fr": "x" * 9999}}])
async def test_invalid_preferences_do_not_affect_others(
    bare_pool: asyncpg.Pool, languages: UserPreferenceReader, nonsense: Any
) -> None:
    """Whatever one user's preferences hold, the others get their language, and long values are truncated."""
    addresses = await add(bare_pool, [nonsense, {"language": "fr"}])
    found = await languages_of(languages, addresses)
    assert found[addresses[1]] == "fr"
    assert len(found.get(addresses[0], "")) <= 64


@pytest.fixture
async def owner(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """Whom the database belongs to; the role `reader` may read the table of users and leaves with the test."""
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE ROLE reader LOGIN; GRANT SELECT ON users TO reader")
    yield connection
    await connection.execute("DROP OWNED BY reader; DROP ROLE reader")
    await connection.close()


@pytest.mark.parametrize("change", REFUSALS, ids=lambda change: change[:28])
async def test_unreadable_table_is_logged_once(
    owner: asyncpg.Connection, database_url: str, clock: FakeClock, change: str
) -> None:
    """Without right, table, column or type all users get the default language, and the remedy is logged."""
    await owner.execute(change)
    async with open_pool(clean_dsn(database_url.replace("postgres@", "reader@"))) as pool:
        languages = UserPreferenceReader(AppDatabase(pool), clock)
        with capture_logs() as said:
            for _ in range(3):
                assert await languages_of(languages, ["p0@example.org"]) == {}
                clock.advance(DENIED_RETRY_S)
    (warning,) = said
    assert warning["event"] == "user_languages_unavailable"
    assert "GRANT" in warning["remedy"]


async def test_right_granted_later_is_used(bare_pool: asyncpg.Pool, clock: FakeClock) -> None:
    """The table is queried again after DENIED_RETRY_S, and not before."""
    languages = UserPreferenceReader(AppDatabase(bare_pool), clock)
    await bare_pool.execute("ALTER TABLE users RENAME TO hidden")
    assert await languages_of(languages, ["p0@example.org"]) == {}
    await bare_pool.execute("ALTER TABLE hidden RENAME TO users")
    await add(bare_pool, [{"language": "fr"}])
    assert await languages_of(languages, ["p0@example.org"]) == {}
    clock.advance(DENIED_RETRY_S)
    assert await languages_of(languages, ["p0@example.org"]) == {"p0@example.org": "fr"}


async def test_unreachable_postgres_raises_store_unavailable(clock: FakeClock) -> None:
    """As in every other query before an email is sent."""
    async with open_pool(clean_dsn(f"postgresql://u@127.0.0.1:{free_port()}/d")) as pool:
        with pytest.raises(StoreUnavailableError):
            await languages_of(UserPreferenceReader(AppDatabase(pool), clock), ["p0@example.org"])
