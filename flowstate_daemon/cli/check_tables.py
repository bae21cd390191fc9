"""What `check` says of the application's own tables: which of them the calendar's mails lack, and the GRANT that helps.

Called by `check_postgres` on the connection it has already. Judging is pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import asyncpg

from flowstate_daemon.cli.verdict import Verdict, fail, ok
from flowstate_daemon.database.pool import borrowed
from flowstate_daemon.database.rights import NEEDED, Lack, find_lacks

SUBJECT = "application tables"


async def examine_tables(pool: asyncpg.Pool, schema: str) -> list[Verdict]:
    """Whether this role may read what the calendar reads. Raises Outage."""
    async with borrowed(pool) as connection:
        return judge_tables(schema, await find_lacks(connection, schema))


def judge_tables(schema: str, lacks: Sequence[Lack], needed: Mapping[str, Sequence[str]] = NEEDED) -> list[Verdict]:
    """One line for each lack, with the mails that it stops; others go out all the same. Pure."""
    if not lacks:
        return [ok(SUBJECT, f"all that the calendar needs in the schema {schema} may be read")]
    return [fail(SUBJECT, f"{lack.finding}: {_stopped(lack, needed)}", lack.remedy) for lack in lacks]


def _stopped(lack: Lack, needed: Mapping[str, Sequence[str]]) -> str:
    kinds = [kind for kind, tables in needed.items() if lack.table is None or lack.table in tables]
    return f"no {', no '.join(kinds)}" if kinds else "languages of people are not known"
