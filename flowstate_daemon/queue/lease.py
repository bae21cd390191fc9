"""The instance lease: one live daemon per instance id, so that a restarted one reclaims its own jobs at once.

`daemon` acquires it before any work and releases it last; its keeper renews it every `RENEW_S`. A holder that
died is known by its connections: the server drops them with the process, long before the lease runs out.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from flowstate_daemon.base.errors import LeaseTaken
from flowstate_daemon.queue.clients import Client, carries, connected_clients
from flowstate_daemon.queue.connection import Connection, beside
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.scripts import Scripts

log = structlog.get_logger()

TTL_MS = 75_000
RENEW_S = 30.0
# The server may notice the closed socket of a killed process a moment after the next one started.
LOOKS = 10
LOOK_S = 0.1
REMEDY = "stop that one, or give this one a FLOWSTATE_QUEUE_INSTANCE_ID of its own"


def connection_name(keys: Keys, token: str) -> str:
    """How a daemon names its blocking connection: Bull's tools see a worker, the lease sees which one."""
    return f"{keys.client_name}:{token}"


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has the lease, as last seen; `left_ms` is what remains of it."""

    token: str
    left_ms: int


class Lease:
    """The right to work under one instance id. The connection must carry `connection_name(keys, token)`."""

    def __init__(
        self, connection: Connection, keys: Keys, *, instance_id: str, token: str, ttl_ms: int = TTL_MS
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._instance_id = instance_id
        self._token = token
        self._ttl_ms = ttl_ms
        self._key = keys.ours(f"instance:{instance_id}")
        self._scripts = Scripts(connection)

    async def acquire(self) -> bool:
        """Take the lease; True when a dead predecessor had left it behind. Raises LeaseTaken, Outage."""
        # Our own name must stand in CLIENT LIST before our token stands in the lease: a rival that starts now
        # would otherwise take us for dead. It is also the proof that the server shows names at all.
        await self._connection.block("PING")
        holder = await self._take(dead="")
        if holder is None:
            return False
        while holder is not None:
            holder = await self._succeed(holder)
        log.info("lease_inherited", instance=self._instance_id)
        return True

    async def renew(self) -> None:
        """Keep the lease for another `TTL_MS`. Raises LeaseTaken when it is lost, Outage."""
        if not await self._scripts.run("lease_renew", [self._key], [self._token, self._ttl_ms]):
            raise self._taken(None)

    async def release(self) -> bool:
        """Give the lease back, so that the next start need not look around; False when it was lost before."""
        return bool(await self._scripts.run("lease_release", [self._key], [self._token]))

    async def _take(self, *, dead: str) -> Holder | None:
        """One atomic try; the holder when it was in vain."""
        answer = await self._scripts.run("lease_take", [self._key], [self._token, dead, self._ttl_ms])
        return None if answer[0] else Holder(answer[1].decode(errors="replace"), answer[2])

    async def _succeed(self, holder: Holder) -> Holder | None:
        """Replace a dead holder; None when done, the new holder when somebody else was faster."""
        alive: list[Client] = []
        for _ in range(LOOKS):
            clients = await connected_clients(self._connection)
            if clients is None or not self._named(clients, self._token):
                return await self._outwait(holder)
            alive = self._named(clients, holder.token)
            if not alive:
                return await self._take(dead=holder.token)
            await asyncio.sleep(LOOK_S)
        raise self._taken(alive[0])

    async def _outwait(self, holder: Holder) -> Holder | None:
        """Where the server does not show its clients: a lease that is renewed has a living holder."""
        log.warning(
            "lease_unclear",
            instance=self._instance_id,
            wait_s=round(holder.left_ms / 1000, 1),
            remedy="allow CLIENT LIST and CLIENT SETNAME, or leave the id to one daemon",
        )
        seen = holder
        while True:
            await asyncio.sleep(min(LOOK_S * 5, max(seen.left_ms, 10) / 1000))
            now = await self._take(dead="")
            if now is None or now.token != holder.token:
                return now
            if now.left_ms > seen.left_ms:
                raise self._taken(None)
            seen = now

    def _named(self, clients: list[Client], token: str) -> list[Client]:
        name = connection_name(self._keys, token)
        return [client for client in clients if carries(client.name, name) or carries(client.name, beside(name))]

    def _taken(self, client: Client | None) -> LeaseTaken:
        where = f" connected from {client.address}" if client is not None else ""
        return LeaseTaken(f"instance id {self._instance_id!r} is held by another running daemon{where}: {REMEDY}")
