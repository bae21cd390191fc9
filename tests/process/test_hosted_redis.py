"""The daemon on Redis Sentinel and Redis Cluster: it follows the primary and sends every email once."""

from __future__ import annotations

from flowstate_daemon.config.loader import load
from flowstate_daemon.redis_client.connection import from_settings
from flowstate_daemon.redis_client.keys import Keys
from tests.process.conftest import MakeDaemon
from tests.process.test_lifecycle import enqueue
from tests.support.fake_resend import FakeResend
from tests.support.redis_topologies import cluster, sentinel_group
from tests.support.waiting import eventually

MAILS = 200


async def put(settings: dict[str, str], keys: Keys, count: int) -> None:
    """Enqueue emails on a new connection, and so leads to whoever is the primary now."""
    connection = from_settings(load(settings).redis, client_name="test")
    await enqueue(connection, keys, count)
    await connection.close()


def sent_once(provider: FakeResend, count: int) -> bool:
    recipients = [mail.to for mail in provider.accepted]
    assert len(recipients) == len(set(recipients)), "a mail was sent twice"
    return len(recipients) == count


async def test_daemon_follows_a_sentinel_failover(make_daemon: MakeDaemon, provider: FakeResend, keys: Keys) -> None:
    """Emails that wait when the primary is killed are sent after the sentinel has promoted the replica."""
    async with sentinel_group() as group:
        sentinels = {"FLOWSTATE_REDIS_SENTINELS": f"127.0.0.1:{group.sentinel.port}"}
        async with make_daemon(REDIS_URL=group.primary.url, **sentinels) as daemon:
            await daemon.ready()
            provider.hold()
            await put(sentinels, keys, MAILS)
            assert await group.primary.run("WAIT", 1, 2000) == 1
            await group.primary.kill()
            await eventually(daemon.is_not_ready, "not ready")
            provider.release()
            await eventually(daemon.is_ready, "ready on the new primary", within_s=40)

            await eventually(lambda: sent_once(provider, MAILS), "all emails", within_s=40)


async def test_daemon_follows_a_cluster_failover(make_daemon: MakeDaemon, provider: FakeResend, keys: Keys) -> None:
    """Connected through another node, the daemon continues on the replica when the node of its slot is killed."""
    tagged = Keys(f"{{{keys.prefix}}}", "email")
    async with cluster(tagged.base) as formed:
        settings = {"REDIS_URL": formed.other.url, "FLOWSTATE_QUEUE_PREFIX": tagged.prefix}
        async with make_daemon(**settings) as daemon:
            await daemon.ready()
            await put(settings, tagged, 1)

            await eventually(lambda: sent_once(provider, 1), "the first email")
            await formed.owner.kill()
            await eventually(daemon.is_not_ready, "not ready")
            await eventually(daemon.is_ready, "ready on the replica", within_s=40)
            await put(settings, tagged, 1)

            await eventually(lambda: len(provider.accepted) == 2, "the second email")


async def test_cluster_without_a_hash_tag_exits_78(make_daemon: MakeDaemon, keys: Keys) -> None:
    """The exit code keeps a supervisor from restarting it, and the log names the setting and its value."""
    async with cluster(keys.base) as formed, make_daemon(REDIS_URL=formed.other.url) as daemon:
        assert await daemon.ended() == 78
    assert f"FLOWSTATE_QUEUE_PREFIX='{{{keys.prefix}}}'" in daemon.log_text()
