"""The instance lease: one live daemon per instance id, so that a restarted daemon recovers its own jobs at once.

The daemon acquires the lease before it claims jobs and releases it last; `LeaseRenewer` renews it every `RENEW_S`. A
dead holder is detected by its closed connections, long before the lease expires.
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
RENEW_S = 37.5  # half of it: a failed renewal is repeated every few seconds
# The server may detect the closed socket of a killed process shortly after the next one has started.
MAX_CHECKS = 10
CHECK_INTERVAL_S = 0.1
# A live daemon sends a command at least every RENEW_S, with which it renews the lease. The server may keep the
# connections of a host that died for hours; connections that are silent for longer than this have no daemon.
MAX_IDLE_S = RENEW_S + 5
REMEDY = "stop that daemon, or set another FLOWSTATE_QUEUE_INSTANCE_ID for this one"


def connection_name(keys: Keys, token: str) -> str:
    """The name of a daemon's blocking connection: Bull's tools count it as a worker, the lease reads the token."""
    return f"{keys.client_name}:{token}"


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of the lease when it was last checked; `left_ms` is the remaining time to live."""

    token: str
    left_ms: int


class Lease:
    """The lease of one instance id. The connection must have the name `connection_name(keys, token)`."""

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
        """Acquire the lease; True when a dead predecessor held it.

        Raises LeaseHeldError while another daemon holds it or may hold it: try again later. StoreUnavailableError.
        """
        # Our connection must be in CLIENT LIST before our token is in the lease: otherwise another daemon that starts
        # now would consider this one dead. It also proves that the server shows the names of connections.
        await self._connection.execute_blocking("PING")
        if not await self._acquire(wait_if_unknown=True):
            return False
        log.info("lease_taken_over", instance=self._instance_id)
        return True

    async def renew(self) -> None:
        """Renew the lease for `TTL_MS`. Raises LeaseHeldError when another daemon has it, StoreUnavailableError.

        If Redis loses its newest writes in a failover, the lease may name a dead predecessor again: it is taken back.
        """
        # One command, where a script would run three. It also extends the lease of another holder. That is harmless:
        # such a daemon is alive and renews it, or its connections are closed and it is taken over.
        holder = await self._connection.execute("GETEX", self._key, "PX", self._ttl_ms)
        if holder != self._token.encode() and await self._acquire(wait_if_unknown=False):
            log.warning(
                "lease_taken_back", instance=self._instance_id, reason="Redis had lost the record of its holder"
            )

    async def release(self) -> bool:
        """Release the lease, so that the next start need not check for a live holder; False when it was lost before."""
        return bool(await self._scripts.run("lease_release", [self._key], [self._token]))

    async def _acquire(self, *, wait_if_unknown: bool) -> bool:
        """True when a dead holder was replaced. Raises as `_take_over`."""
        first = holder = await self._try_acquire(dead="")
        while holder is not None:
            holder = await self._take_over(holder, wait_if_unknown=wait_if_unknown)
        return first is not None

    async def _try_acquire(self, *, dead: str) -> Holder | None:
        """One atomic try; returns the holder when it failed."""
        reply = await self._scripts.run("lease_take", [self._key], [self._token, dead, self._ttl_ms])
        return None if reply[0] else Holder(reply[1].decode(errors="replace"), reply[2])

    async def _take_over(self, holder: Holder, *, wait_if_unknown: bool) -> Holder | None:
        """Replace a dead holder. Returns None when done, or the new holder when another daemon was faster.

        Raises LeaseHeldError if it is alive, and unless `wait_if_unknown` also if the server does not show whether.
        """
        alive: list[ClientInfo] = []
        for _ in range(MAX_CHECKS):
            clients = await list_clients(self._connection)
            if clients is None or not self._named(clients, self._token):
                if wait_if_unknown:
                    return await self._wait_for_expiry(holder)
                raise self._held_error(None)
            alive = self._named(clients, holder.token)
            if all(client.idle_s > MAX_IDLE_S for client in alive):
                return await self._try_acquire(dead=holder.token)
            await asyncio.sleep(CHECK_INTERVAL_S)
        raise self._held_error(alive[0])

    async def _wait_for_expiry(self, holder: Holder) -> Holder | None:
        """Without CLIENT LIST: a lease that is renewed has a live holder, one that expires is free."""
        log.warning(
            "lease_holder_unknown",
            instance=self._instance_id,
            wait_s=round(holder.left_ms / 1000, 1),
            remedy="allow CLIENT LIST and CLIENT SETNAME, and use the instance id for one daemon only",
        )
        seen = holder
        while True:
            await asyncio.sleep(min(CHECK_INTERVAL_S * 5, max(seen.left_ms, 10) / 1000))
            now = await self._try_acquire(dead="")
            if now is None or now.token != holder.token:
                return now
            if now.left_ms > seen.left_ms:
                raise self._held_error(None)
            seen = now

    def _named(self, clients: list[ClientInfo], token: str) -> list[ClientInfo]:
        name = connection_name(self._keys, token)
        return [
            client
            for client in clients
            if has_name_prefix(client.name, name) or has_name_prefix(client.name, secondary_name(name))
        ]

    def _held_error(self, client: ClientInfo | None) -> LeaseHeldError:
        address = f" connected from {client.address}" if client is not None else ""
        return LeaseHeldError(f"instance id {self._instance_id!r} is held by another running daemon{address}: {REMEDY}")
