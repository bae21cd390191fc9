"""What this user may do on this Redis: every command, key and channel that the daemon needs, tried in earnest.

`check` asks. Everything is tried on a key of its own that is gone afterwards, or without an effect; asking the server
for its rules instead would need more rights than the work itself.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

from redis import exceptions as refused

from flowstate_daemon.base.errors import Outage
from flowstate_daemon.queue.connection import Connection, outages
from flowstate_daemon.queue.keys import Keys
from flowstate_daemon.queue.scripts import Scripts

# One of each command in `lua/`; a test compares.
IN_SCRIPTS = (
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
HEARD = ("delayed", "paused", "resumed", "completed", "failed")
DENIED = re.compile(
    r"NOPERM|ACL failure|user executing the script|unknown (redis )?command|not allowed from", re.IGNORECASE
)
CONFIRM_S = 2.0


@dataclass(frozen=True, slots=True)
class Rights:
    """What is missing; `keys` and `channels` say that some of the queue's are out of reach. `user` None: unknown."""

    user: str | None
    commands: tuple[str, ...] = ()
    keys: bool = False
    channels: bool = False
    tried: int = 0

    @property
    def complete(self) -> bool:
        return not (self.commands or self.keys or self.channels)


class Trial:
    """Tries one user's rights on one queue."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._own = keys.ours(f"rights:{uuid.uuid4().hex}")
        self._missing: list[str] = []
        self._keys_denied = False
        self._channels_denied = False
        self._tried = 0

    async def run(self) -> Rights:
        """Try everything. Raises Outage when Redis is away."""
        await self._try("eval", "EVAL", "return 1", "0")
        await self._try("evalsha", "EVALSHA", "0" * 40, "0")  # no such script: the right to it was looked at before
        await self._commands()
        nobody = uuid.uuid4().hex
        await self._try("exists", "EXISTS", *(self._keys(name) for name in ("wait", "active", "paused", "id")))
        await self._try("zrem", "ZREM", self._keys("delayed"), nobody)  # takes nothing away, and needs the right to
        await self._try("blmove", "BLMOVE", self._own, self._own, "RIGHT", "RIGHT", "0.01", blocking=True)
        await self._listen()
        return Rights(
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
            said = await Scripts(self._connection).run("rights", [self._own], [self._own, *IN_SCRIPTS])
        except Outage as outage:
            self._note("evalsha", str(outage.__cause__), outage)
            for command in IN_SCRIPTS:
                words = [{"$": self._own, "@": self._own}.get(word, word) for word in command.split()]
                await self._try(words[0].lower(), *words)
        for command, words_said in zip(IN_SCRIPTS, said, strict=False):
            self._judge(command.split()[0].lower(), words_said.decode(errors="replace"))
        self._tried += len(said)

    async def _try(self, name: str, *command: str, blocking: bool = False) -> None:
        """Raises Outage when it failed for another reason than the user's rights."""
        ask = self._connection.block if blocking else self._connection.call
        self._tried += 1
        try:
            await ask(*command)
        except Outage as outage:
            self._note(name, str(outage.__cause__), outage)
        except refused.ResponseError as error:
            self._judge(name, str(error))

    async def _listen(self) -> None:
        """Subscribe to what the daemon hears, which changes nothing."""
        pubsub = self._connection.pubsub()
        self._tried += 1
        try:
            with outages():
                await pubsub.subscribe(*(self._keys(kind) for kind in HEARD))
                await pubsub.get_message(timeout=CONFIRM_S)
        except Outage as outage:
            self._note("subscribe", str(outage.__cause__), outage)
        finally:
            await pubsub.aclose()  # type: ignore[no-untyped-call]

    def _note(self, name: str, words: str, outage: Outage) -> None:
        """Raises the outage unless it is a matter of rights."""
        if isinstance(outage.__cause__, refused.NoPermissionError):
            words = f"NOPERM {words}"
        if not self._judge(name, words):
            raise outage

    def _judge(self, name: str, words: str) -> bool:
        """Whether the words are a refusal, noted as one of commands, keys or channels."""
        if not DENIED.search(words):
            return False
        if "channel" in words:
            self._channels_denied = True
        elif re.search(r"\bkeys?\b", words):
            self._keys_denied = True
        else:
            self._missing.append(name)
        return True

    async def _user(self) -> str | None:
        try:
            answer = await self._connection.call("ACL", "WHOAMI")
        except Outage as outage:
            if isinstance(outage.__cause__, refused.NoPermissionError):
                return None
            raise
        except refused.ResponseError:
            return None
        return bytes(answer).decode(errors="replace")
