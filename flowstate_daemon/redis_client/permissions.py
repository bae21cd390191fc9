"""The permissions of the Redis user, found by running every command on keys and channels that the daemon needs.

The commands use a key of their own, which is deleted afterwards, or have no effect. Reading the ACL rules instead would
need more permissions than the daemon.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from redis import exceptions as refused

from flowstate_daemon.base.errors import KeyTypeError, StoreUnavailableError
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.errors import (
    PERMISSION_PATTERN,
    UNKNOWN_COMMAND_PATTERN,
    translate_errors,
)
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts
from flowstate_daemon.redis_client.server_info import call_or_none

# Every command of the Lua scripts; a test compares the lists.
SCRIPT_COMMANDS = (
    "SET $ 1 PX 10000", "GET $", "MGET $", "EXISTS $", "TYPE $", "PTTL $", "PEXPIRE $ 10000", "INCR $", "INCRBY $ 1",
    "RENAME $ $", "TIME", "PUBLISH @ 0",
    "HSET $ f 1", "HGET $ f", "HMGET $ f", "HGETALL $", "HDEL $ f", "HSTRLEN $ f", "HINCRBY $ f 1",
    "LPUSH $ 1", "RPUSH $ 1", "RPOP $", "LLEN $", "LINDEX $ 0", "LRANGE $ 0 0", "LPOS $ 1", "LREM $ 0 1", "LSET $ 0 1",
    "LTRIM $ 0 0", "LINSERT $ BEFORE 1 2",
    "SADD $ 1", "SREM $ 1", "SMEMBERS $",
    "ZADD $ 1 1", "ZREM $ 1", "ZCARD $", "ZCOUNT $ 0 1", "ZSCORE $ 1", "ZMSCORE $ 1", "ZRANGE $ 0 0",
    "ZREVRANGE $ 0 0", "ZRANGEBYSCORE $ 0 1", "ZREMRANGEBYRANK $ 0 0", "ZREMRANGEBYSCORE $ 0 1",
    "DEL $",
)  # fmt: skip
CHANNELS = ("delayed", "paused", "resumed", "completed", "failed")
CONFIRM_S = 2.0


@dataclass(frozen=True, slots=True)
class Permissions:
    """The missing permissions. `keys` and `channels`: access to some of the queue's is denied. `user` None: unknown."""

    user: str | None
    commands: tuple[str, ...] = ()
    keys: bool = False
    channels: bool = False
    checked: int = 0

    @property
    def complete(self) -> bool:
        return not (self.commands or self.keys or self.channels)


class PermissionCheck:
    """Checks the permissions of the connected user on one queue."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._own = keys.own(f"rights:{uuid.uuid4().hex}")
        self._missing: list[str] = []
        self._keys_denied = False
        self._channels_denied = False
        self._checked = 0

    async def run(self) -> Permissions:
        """Check all permissions. Raises StoreUnavailableError."""
        await self._check("eval", "EVAL", "return 1", "0")
        await self._check(
            "evalsha", "EVALSHA", "0" * 40, "0"
        )  # the script does not exist; Redis checks the permission first
        await self._check_script_commands()
        await self._check("getex", "GETEX", self._own, "PX", "1000")  # the key does not exist
        unknown_id = uuid.uuid4().hex
        await self._check("exists", "EXISTS", *(self._keys(name) for name in ("wait", "active", "paused", "id")))
        await self._check(
            "zrem", "ZREM", self._keys("delayed"), unknown_id
        )  # removes nothing, but needs the permission
        await self._check("blmove", "BLMOVE", self._own, self._own, "RIGHT", "RIGHT", "0.01", blocking=True)
        await self._check_channels()
        return Permissions(
            await self._user(),
            tuple(sorted(set(self._missing))),
            self._keys_denied,
            self._channels_denied,
            self._checked,
        )

    async def _check_script_commands(self) -> None:
        """Run the commands in a script, like the daemon; one by one when the user may not run the script."""
        errors: list[bytes] = []
        try:
            errors = await Scripts(self._connection).run(
                "check_permissions", [self._own], [self._own, *SCRIPT_COMMANDS]
            )
        except StoreUnavailableError as outage:
            self._record_or_raise("evalsha", str(outage.__cause__), outage)
            for command in SCRIPT_COMMANDS:
                text = [{"$": self._own, "@": self._own}.get(word, word) for word in command.split()]
                await self._check(text[0].lower(), *text)
        for command, error in zip(SCRIPT_COMMANDS, errors, strict=False):
            self._record(command.split()[0].lower(), error.decode(errors="replace"))
        self._checked += len(errors)

    async def _check(self, name: str, *command: str, blocking: bool = False) -> None:
        """Run one command. Raises StoreUnavailableError when it failed for another reason than a missing permission."""
        execute = self._connection.execute_blocking if blocking else self._connection.execute
        self._checked += 1
        try:
            await execute(*command)
        except KeyTypeError:
            return  # allowed: the keys of this check change their type
        except StoreUnavailableError as outage:
            self._record_or_raise(name, str(outage.__cause__), outage)
        except refused.ResponseError as error:
            self._record(name, str(error))

    async def _check_channels(self) -> None:
        """Subscribe to the channels of the daemon."""
        pubsub = self._connection.pubsub()
        self._checked += 1
        try:
            with translate_errors():
                await pubsub.subscribe(*(self._keys(kind) for kind in CHANNELS))
                await pubsub.get_message(timeout=CONFIRM_S)
        except StoreUnavailableError as outage:
            self._record_or_raise("subscribe", str(outage.__cause__), outage)
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    def _record_or_raise(self, name: str, text: str, outage: StoreUnavailableError) -> None:
        """Record a missing permission, or raise `outage` when it has another cause."""
        if isinstance(outage.__cause__, refused.NoPermissionError):
            text = f"NOPERM {text}"
        if not self._record(name, text):
            raise outage

    def _record(self, name: str, text: str) -> bool:
        """Whether the text is a permission error; it is recorded as one of commands, keys or channels."""
        if not (PERMISSION_PATTERN.search(text) or UNKNOWN_COMMAND_PATTERN.search(text)):
            return False
        if "channel" in text:
            self._channels_denied = True
        elif re.search(r"\bkeys?\b", text):
            self._keys_denied = True
        else:
            self._missing.append(name)
        return True

    async def _user(self) -> str | None:
        reply = await call_or_none(self._connection, "ACL", "WHOAMI")
        return None if reply is None else bytes(reply).decode(errors="replace")
