"""The language of an email is that of the job, else of the user, else of the configuration."""

from __future__ import annotations

from datetime import UTC, datetime

import asyncpg
import pytest

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.dev.seed import add_users
from flowstate_daemon.mail_producer import MailProducer, NewMail
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.support.fake_resend import FakeResend
from tests.support.waiting import eventually

UNKNOWN = "unknown@example.org"
AMELIE, BEN, FATOU = (f"{name}@flowstate.example" for name in ("amelie", "ben", "fatou"))
ENGLISH, FRENCH = "Welcome to FlowState", "Bienvenue sur FlowState"


async def subjects(provider: FakeResend, connection: Connection, keys: Keys, orders: list[NewMail]) -> dict[str, str]:
    """Enqueue the emails, and return the subject of each recipient's email."""
    producer = MailProducer(BullQueue(connection, keys, Clock(), token="test"), attempts=4, backoff_ms=2000)
    await producer.enqueue_many(orders)

    await eventually(lambda: len(provider.accepted) == len(orders), "all emails accepted")
    return {mail.to[0]: mail.subject for mail in provider.accepted}


def welcome(address: str, locale: str | None = None) -> NewMail:
    return NewMail("welcome", address, {"name": "Ada"}, locale=locale)


@pytest.mark.parametrize("readable", [True, False], ids=["readable", "no right"])
async def test_email_is_in_the_language_of_the_user(
    make_daemon: MakeDaemon,
    provider: FakeResend,
    connection: Connection,
    keys: Keys,
    database_url: str,
    *,
    readable: bool,
) -> None:
    """When the users table cannot be read, emails without a language of their own are in the default language."""
    await add_users(database_url, datetime(2026, 3, 2, tzinfo=UTC))
    if not readable:
        owner = await asyncpg.connect(database_url)
        await owner.execute("ALTER TABLE users RENAME TO hidden")
        await owner.close()
    async with make_daemon(DATABASE_URL=database_url) as daemon:
        await daemon.ready()
        orders = [welcome(AMELIE), welcome(BEN, "fr-CA"), welcome(FATOU), welcome(UNKNOWN, "tlh")]
        found = await subjects(provider, connection, keys, orders)
        assert len(daemon.events("user_languages_unavailable")) == (not readable)
    assert found == {AMELIE: FRENCH if readable else ENGLISH, BEN: FRENCH, FATOU: ENGLISH, UNKNOWN: ENGLISH}


async def test_language_without_a_database_is_the_configured_one(
    make_daemon: MakeDaemon, provider: FakeResend, connection: Connection, keys: Keys
) -> None:
    """Without a database the configured language applies, unless the job has its own."""
    async with make_daemon(FLOWSTATE_MAIL_DEFAULT_LOCALE="fr") as daemon:
        await daemon.ready()
        found = await subjects(provider, connection, keys, [welcome(AMELIE), welcome(BEN, "en")])
    assert found == {AMELIE: FRENCH, BEN: ENGLISH}
