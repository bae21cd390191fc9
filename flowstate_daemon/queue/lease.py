"""The instance lease: one live daemon per instance id, so that a restarted one reclaims its own jobs at once.

`daemon` acquires it before any work and releases it last; its keeper renews it every `RENEW_S`. A holder that
died is known by its connections: the server drops them with the process, long before the lease runs out.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from flowstate_daemon.base.errors import LeaseHeldError
from flowstate_daemon.redis_client.connection import Connection, secondary_name
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts
from flowstate_daemon.redis_client.server_info import ClientInfo, has_name_prefix, list_clients

log = structlog.get_logger()

TTL_MS = 75_000
RENEW_S = 30.0
# The server may notice the closed socket of a killed process a moment after the next one started.
MAX_CHECKS = 10
CHECK_INTERVAL_S = 0.1
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
        self._key = keys.own(f"instance:{instance_id}")
        self._scripts = Scripts(connection)

    async def acquire(self) -> bool:
        """Take the lease; True when a dead predecessor had left it behind. Raises LeaseTaken, Outage."""
        # Our own name must stand in CLIENT LIST before our token stands in the lease: a rival that starts now
        # would otherwise take us for dead. It is also the proof that the server shows names at all.
        await self._connection.execute_blocking("PING")
        holder = await self._take(dead="")
        if holder is None:
            return False
        while holder is not None:
            holder = await self._take_over(holder)
        log.info("lease_taken_over", instance=self._instance_id)
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

    async def _take_over(self, holder: Holder) -> Holder | None:
        """Replace a dead holder; None when done, the new holder when somebody else was faster."""
        alive: list[ClientInfo] = []
        for _ in range(MAX_CHECKS):
            clients = await list_clients(self._connection)
            if clients is None or not self._named(clients, self._token):
                return await self._wait_for_expiry(holder)
            alive = self._named(clients, holder.token)
            if not alive:
                return await self._take(dead=holder.token)
            await asyncio.sleep(CHECK_INTERVAL_S)
        raise self._taken(alive[0])

    async def _wait_for_expiry(self, holder: Holder) -> Holder | None:
        """Where the server does not show its clients: a lease that is renewed has a living holder."""
        log.warning(
            "lease_holder_unknown",
            instance=self._instance_id,
            wait_s=round(holder.left_ms / 1000, 1),
            remedy="allow CLIENT LIST and CLIENT SETNAME, or leave the id to one daemon",
        )
        seen = holder
        while True:
            await asyncio.sleep(min(CHECK_INTERVAL_S * 5, max(seen.left_ms, 10) / 1000))
            now = await self._take(dead="")
            if now is None or now.token != holder.token:
                return now
            if now.left_ms > seen.left_ms:
                raise self._taken(None)
            seen = now

    def _named(self, clients: list[ClientInfo], token: str) -> list[ClientInfo]:
        name = connection_name(self._keys, token)
        return [
            client
            for client in clients
            if has_name_prefix(client.name, name) or has_name_prefix(client.name, secondary_name(name))
        ]

    def _taken(self, client: ClientInfo | None) -> LeaseHeldError:
        where = f" connected from {client.address}" if client is not None else ""
        return LeaseHeldError(f"instance id {self._instance_id!r} is held by another running daemon{where}: {REMEDY}")
