"""Runs every schedule for the sample people and waits for what becomes of it: the calendar's half of `dev`.

Their days are counted from today, so each schedule finds something on every day of the week.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from flowstate_daemon.schedule.by_hand import ByHand, Wish

LOOK_S = 0.05
UNDER_WAY = {"planned", "queued"}
FATES = """
    SELECT kind, state, coalesce(reason, '') AS reason, count(*) AS people
    FROM flowstate_daemon.notices WHERE planned_at >= $1
    GROUP BY 1, 2, 3 ORDER BY 1, 2, 4 DESC, 3
"""


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of how many slots of one schedule, and why."""

    kind: str
    state: str
    people: int
    reason: str = ""


async def plan_everything(by_hand: ByHand, now: datetime) -> None:
    """Everybody's slots of today, also those that have ended earlier today. Raises Outage."""
    for name in by_hand.names:
        await by_hand.run(Wish(name, now, force=True))


async def fates_since(url: str, since: datetime, *, within_s: float) -> list[Fate]:
    """Wait until all that was planned has ended. Raises TimeoutError."""
    connection = await asyncpg.connect(url)
    try:
        async with asyncio.timeout(within_s):
            fates = await _fates(connection, since)
            while UNDER_WAY.intersection(fate.state for fate in fates):
                await asyncio.sleep(LOOK_S)  # the ledger writer tells nobody when it has written
                fates = await _fates(connection, since)
    finally:
        await connection.close()
    return fates


async def _fates(connection: asyncpg.Connection, since: datetime) -> list[Fate]:
    return [
        Fate(row["kind"], row["state"], row["people"], row["reason"]) for row in await connection.fetch(FATES, since)
    ]
