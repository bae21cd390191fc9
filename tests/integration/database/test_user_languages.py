"""The language of users, read from the application's table as far as the role may."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.database.dsn import clean_dsn
from flowstate_daemon.database.pool import open_pool
from flowstate_daemon.database.recipients import DENIED_RETRY_S, UserLanguages
from flowstate_daemon.dev.embedded import free_port
from tests.support.clock import FakeClock

REFUSALS = (
    "REVOKE SELECT ON users FROM reader",
    "ALTER TABLE users DROP COLUMN preferences",
    "ALTER TABLE users ALTER COLUMN preferences TYPE text",
    "DROP TABLE users CASCADE",
    "DROP SCHEMA public CASCADE",
)


@pytest.fixture
def languages(bare_pool: asyncpg.Pool, clock: FakeClock) -> UserLanguages:
    return UserLanguages(bare_pool, clock)


async def add(pool: asyncpg.Pool, preferences: Sequence[Any], address: str = "p{}@example.org") -> list[str]:
    """People with these preferences; returns their addresses."""
    addresses = [address.format(number) for number in range(len(preferences))]
    await pool.executemany(
        """INSERT INTO users (id, email, password, preferences, "updatedAt") VALUES ($1, $1, '', $2, now())""",
        list(zip(addresses, preferences, strict=True)),
    )
    return addresses


async def test_chosen_languages_are_returned(bare_pool: asyncpg.Pool, languages: UserLanguages) -> None:
    """Users with a language get it as they wrote it; others are missing."""
    await add(bare_pool, [{"language": "fr"}, {"language": "pt-BR"}, {"language": None}, {}, None])
    asked = [f"p{number}@example.org" for number in range(6)]
    assert await languages.languages_of(asked) == {"p0@example.org": "fr", "p1@example.org": "pt-BR"}


async def test_address_is_found_in_another_spelling(bare_pool: asyncpg.Pool, languages: UserLanguages) -> None:
    """Most applications store addresses in lower case, some as typed."""
    await add(bare_pool, [{"language": "fr"}])
    await add(bare_pool, [{"language": "fr"}], "Q{}@example.org")
    found = await languages.languages_of(["P0@Example.org", "Q0@example.org", "q0@example.org", "a\0b", "\ud800"])
    assert found == {"P0@Example.org": "fr", "Q0@example.org": "fr"}


@pytest.mark.parametrize("nonsense", ["fr", ["fr"], 7, True, {"language": ["fr"]}, {"language": {"fr": "x" * 9999}}])
async def test_invalid_preferences_do_not_affect_others(
    bare_pool: asyncpg.Pool, languages: UserLanguages, nonsense: Any
) -> None:
    """Whatever one user's preferences hold, the others get their language, and long values are truncated."""
    addresses = await add(bare_pool, [nonsense, {"language": "fr"}])
    found = await languages.languages_of(addresses)
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
        languages = UserLanguages(pool, clock)
        with capture_logs() as said:
            for _ in range(3):
                assert await languages.languages_of(["p0@example.org"]) == {}
                clock.advance(DENIED_RETRY_S)
    (warning,) = said
    assert warning["event"] == "user_languages_unavailable"
    assert "GRANT" in warning["remedy"]


async def test_right_granted_later_is_used(bare_pool: asyncpg.Pool, clock: FakeClock) -> None:
    """The table is queried again after DENIED_RETRY_S, and not before."""
    languages = UserLanguages(bare_pool, clock)
    await bare_pool.execute("ALTER TABLE users RENAME TO hidden")
    assert await languages.languages_of(["p0@example.org"]) == {}
    await bare_pool.execute("ALTER TABLE hidden RENAME TO users")
    await add(bare_pool, [{"language": "fr"}])
    assert await languages.languages_of(["p0@example.org"]) == {}
    clock.advance(DENIED_RETRY_S)
    assert await languages.languages_of(["p0@example.org"]) == {"p0@example.org": "fr"}


async def test_unreachable_postgres_raises_store_unavailable(clock: FakeClock) -> None:
    """As in every other query before an email is sent."""
    async with open_pool(clean_dsn(f"postgresql://u@127.0.0.1:{free_port()}/d")) as pool:
        with pytest.raises(StoreUnavailableError):
            await UserLanguages(pool, clock).languages_of(["p0@example.org"])
