"""What this user may do on this Redis: every command, key and channel that the daemon needs, tried in earnest.

`check` asks. Everything is tried on a key of its own that is gone afterwards, or without an effect; asking the server
for its rules instead would need more rights than the work itself.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from redis import exceptions as refused

from flowstate_daemon.base.errors import StoreUnavailableError
from flowstate_daemon.redis_client.connection import Connection, translate_errors
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.redis_client.scripts import Scripts

# One of each command in `lua/`; a test compares.
SCRIPT_COMMANDS = (
    "SET $ 1 PX 10000", "GET $", "MGET $", "EXISTS $", "TYPE $", "PTTL $", "PEXPIRE $ 10000", "INCR $", "INCRBY $ 1",
    "RENAME $ $", "TIME", "PUBLISH @ 0",
    "HSET $ f 1", "HGET $ f", "HMGET $ f", "HGETALL $", "HDEL $ f", "HSTRLEN $ f", "HINCRBY $ f 1",
    "LPUSH $ 1", "RPUSH $ 1", "RPOP $", "LLEN $", "LINDEX $ 0", "LRANGE $ 0 0", "LPOS $ 1", "LREM $ 0 1",
    "LTRIM $ 0 0", "LINSERT $ BEFORE 1 2",
    "SADD $ 1", "SREM $ 1", "SMEMBERS $",
    "ZADD $ 1 1", "ZREM $ 1", "ZCARD $", "ZCOUNT $ 0 1", "ZSCORE $ 1", "ZMSCORE $ 1", "ZRANGE $ 0 0",
    "ZREVRANGE $ 0 0", "ZRANGEBYSCORE $ 0 1", "ZREMRANGEBYRANK $ 0 0", "ZREMRANGEBYSCORE $ 0 1",
    "DEL $",
)  # fmt: skip
CHANNELS = ("delayed", "paused", "resumed", "completed", "failed")
NOPERM_PATTERN = re.compile(
    r"NOPERM|ACL failure|user executing the script|unknown (redis )?command|not allowed from", re.IGNORECASE
)
CONFIRM_S = 2.0


@dataclass(frozen=True, slots=True)
class Permissions:
    """What is missing; `keys` and `channels` say that some of the queue's are out of reach. `user` None: unknown."""

    user: str | None
    commands: tuple[str, ...] = ()
    keys: bool = False
    channels: bool = False
    checked: int = 0

    @property
    def complete(self) -> bool:
        return not (self.commands or self.keys or self.channels)


class PermissionCheck:
    """Tries one user's rights on one queue."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._own = keys.own(f"rights:{uuid.uuid4().hex}")
        self._missing: list[str] = []
        self._keys_denied = False
        self._channels_denied = False
        self._tried = 0

    async def run(self) -> Permissions:
        """Try everything. Raises Outage when Redis is away."""
        await self._try("eval", "EVAL", "return 1", "0")
        await self._try("evalsha", "EVALSHA", "0" * 40, "0")  # no such script: the right to it was looked at before
        await self._commands()
        no_one = uuid.uuid4().hex
        await self._try("exists", "EXISTS", *(self._keys(name) for name in ("wait", "active", "paused", "id")))
        await self._try("zrem", "ZREM", self._keys("delayed"), no_one)  # takes nothing away, and needs the right to
        await self._try("blmove", "BLMOVE", self._own, self._own, "RIGHT", "RIGHT", "0.01", blocking=True)
        await self._listen()
        return Permissions(
            await self._user(),
            tuple(sorted(set(self._missing))),
            self._keys_denied,
            self._channels_denied,
            self._tried,
        )

    async def _commands(self) -> None:
        """As the daemon runs them, within a script; one by one where this user may not run one on these keys."""
        said: list[bytes] = []
        try:
            said = await Scripts(self._connection).run("check_permissions", [self._own], [self._own, *SCRIPT_COMMANDS])
        except StoreUnavailableError as outage:
            self._note("evalsha", str(outage.__cause__), outage)
            for command in SCRIPT_COMMANDS:
                text = [{"$": self._own, "@": self._own}.get(word, word) for word in command.split()]
                await self._try(text[0].lower(), *text)
        for command, text_said in zip(SCRIPT_COMMANDS, said, strict=False):
            self._judge(command.split()[0].lower(), text_said.decode(errors="replace"))
        self._tried += len(said)

    async def _try(self, name: str, *command: str, blocking: bool = False) -> None:
        """Raises Outage when it failed for another reason than the user's rights."""
        ask = self._connection.execute_blocking if blocking else self._connection.execute
        self._tried += 1
        try:
            await ask(*command)
        except StoreUnavailableError as outage:
            self._note(name, str(outage.__cause__), outage)
        except refused.ResponseError as error:
            self._judge(name, str(error))

    async def _listen(self) -> None:
        """Subscribe to what the daemon hears, which changes nothing."""
        pubsub = self._connection.pubsub()
        self._tried += 1
        try:
            with translate_errors():
                await pubsub.subscribe(*(self._keys(kind) for kind in CHANNELS))
                await pubsub.get_message(timeout=CONFIRM_S)
        except StoreUnavailableError as outage:
            self._note("subscribe", str(outage.__cause__), outage)
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    def _note(self, name: str, text: str, outage: StoreUnavailableError) -> None:
        """Raises the outage unless it is a matter of rights."""
        if isinstance(outage.__cause__, refused.NoPermissionError):
            text = f"NOPERM {text}"
        if not self._judge(name, text):
            raise outage

    def _judge(self, name: str, text: str) -> bool:
        """Whether the words are a refusal, noted as one of commands, keys or channels."""
        if not NOPERM_PATTERN.search(text):
            return False
        if "channel" in text:
            self._channels_denied = True
        elif re.search(r"\bkeys?\b", text):
            self._keys_denied = True
        else:
            self._missing.append(name)
        return True

    async def _user(self) -> str | None:
        try:
            answer = await self._connection.execute("ACL", "WHOAMI")
        except StoreUnavailableError as outage:
            if isinstance(outage.__cause__, refused.NoPermissionError):
                return None
            raise
        except refused.ResponseError:
            return None
        return bytes(answer).decode(errors="replace")
