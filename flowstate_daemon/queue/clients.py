"""Who is connected to Redis: CLIENT LIST, read and never trusted to be complete.

The inspector counts workers with it, the lease tells a dead daemon from a live one. Some hosted Redis refuse
the command: then nobody knows, which is another answer than "nobody is there".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from redis import exceptions as refused

from flowstate_daemon.base.errors import Outage
from flowstate_daemon.queue.connection import Connection

OUR_TOKEN = re.compile(r":[A-Za-z0-9._-]{1,64}/[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Client:
    """One connection as the server sees it; `name` is empty where none was given."""

    name: str
    address: str
    age_s: int
    idle_s: int


async def connected_clients(connection: Connection) -> list[Client] | None:
    """All connections of the server, or None when it does not say. Raises Outage."""
    try:
        answer = await connection.call("CLIENT", "LIST")
    except Outage as outage:
        if isinstance(outage.__cause__, refused.NoPermissionError):
            return None
        raise
    except refused.ResponseError:
        return None
    return [read_client(line) for line in answer.decode(errors="replace").splitlines() if line]


def read_client(line: str) -> Client:
    """One line of CLIENT LIST; fields that are missing or odd become empty or 0."""
    fields = dict(part.partition("=")[::2] for part in line.split(" "))
    return Client(fields.get("name", ""), fields.get("addr", ""), _whole(fields.get("age")), _whole(fields.get("idle")))


def _whole(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def carries(client_name: str, prefix: str) -> bool:
    """Whether a connection's name is `prefix` itself or `prefix:` and more.

    Bull matches by prefix alone and so counts the workers of queue `abcd` under `abc`.
    """
    return client_name == prefix or client_name.startswith(f"{prefix}:")


def strangers(clients: Iterable[Client], worker_name: str) -> tuple[Client, ...]:
    """Of the queue's workers those that are no daemon of ours: a name of ours ends in instance and boot id."""
    return tuple(
        client
        for client in clients
        if carries(client.name, worker_name) and not OUR_TOKEN.fullmatch(client.name.removeprefix(worker_name))
    )
