"""The daemon on a Redis that is several servers: it follows the primary, sends every mail, and sends none twice."""

from __future__ import annotations

from flowstate_daemon.config.loader import load
from flowstate_daemon.redis_client.connection import from_settings
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_faults import is_green, is_red
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend
from tests.support.redis_topologies import cluster, sentinel_group
from tests.support.waiting import eventually

MAILS = 200


async def put(settings: dict[str, str], keys: Keys, count: int) -> None:
    """Enqueue mails on a connection that is new, and so leads to whoever is the primary now."""
    connection = from_settings(load(settings).redis, client_name="test")
    await enqueue(connection, keys, count)
    await connection.close()


def sent_once(provider: FakeResend, count: int) -> bool:
    recipients = [mail.to for mail in provider.accepted]
    assert len(recipients) == len(set(recipients)), "a mail was sent twice"
    return len(recipients) == count


async def test_a_daemon_outlives_the_death_of_a_watched_primary(
    make_daemon: MakeDaemon, provider: FakeResend, keys: Keys
) -> None:
    """Mails wait on the primary when it dies; the sentinel promotes the replica, and they go out from there."""
    async with sentinel_group() as group:
        sentinels = {"FLOWSTATE_REDIS_SENTINELS": f"127.0.0.1:{group.sentinel.port}"}
        async with make_daemon(REDIS_URL=group.primary.url, **sentinels) as daemon:
            await daemon.ready()
            provider.hold()
            await put(sentinels, keys, MAILS)
            assert await group.primary.run("WAIT", 1, 2000) == 1
            await group.primary.kill()
            await eventually(lambda: is_red(daemon), "ready is red")
            provider.release()
            await eventually(lambda: is_green(daemon), "ready is green on the new primary", within_s=40)

            async def all_sent() -> bool:
                return sent_once(provider, MAILS)

            await eventually(all_sent, "all mails", within_s=40)


async def test_a_daemon_lives_in_a_cluster_and_outlives_its_node(
    make_daemon: MakeDaemon, provider: FakeResend, keys: Keys
) -> None:
    """It is told another node than the one with its slot; that one dies, and the replica has the queue then."""
    tagged = Keys(f"{{{keys.prefix}}}", "email")
    async with cluster(tagged.base) as formed:
        settings = {"REDIS_URL": formed.other.url, "FLOWSTATE_QUEUE_PREFIX": tagged.prefix}
        async with make_daemon(**settings) as daemon:
            await daemon.ready()
            await put(settings, tagged, 1)

            async def first_sent() -> bool:
                return sent_once(provider, 1)

            await eventually(first_sent, "the first mail")
            await formed.owner.kill()
            await eventually(lambda: is_red(daemon), "ready is red")
            await eventually(lambda: is_green(daemon), "ready is green on the replica", within_s=40)
            await put(settings, tagged, 1)

            async def second_sent() -> bool:
                return len(provider.accepted) == 2

            await eventually(second_sent, "the second mail")


async def test_a_cluster_that_would_spread_the_queue_is_refused(make_daemon: MakeDaemon, keys: Keys) -> None:
    """Exit 78, so that a supervisor does not try again, with what to set where."""
    async with cluster(keys.base) as formed, make_daemon(REDIS_URL=formed.other.url) as daemon:
        assert await daemon.ended() == 78
    assert f"FLOWSTATE_QUEUE_PREFIX='{{{keys.prefix}}}'" in daemon.log_text()
