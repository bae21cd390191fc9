"""Turns Prisma's DATABASE_URL into what asyncpg understands. Pure; `pool.py` connects with the result.

asyncpg hands every parameter that it does not know to the server, which refuses it: Prisma's own have to go, and
those that mean something here become arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from flowstate_daemon.base.errors import ConfigError

CONNECT_TIMEOUT_S = 10.0
# What asyncpg and the server know by these names.
SUPPORTED_PARAMETERS = frozenset(
    {
        *("host", "port", "user", "password", "database", "dbname", "passfile", "target_session_attrs"),
        *("sslmode", "sslrootcert", "sslkey", "sslcrl", "sslnegotiation", "sslpassword"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib"),
        *("application_name", "options"),
    }
)
# What is already so, whatever they say: no prepared statements, no check of certificates without `strict`.
IGNORED_PARAMETERS = frozenset({"pgbouncer", "statement_cache_size", "uselibpqcompat"})
HOST = re.compile(r"(\[[0-9A-Za-z:.%]+\]|[^:\[\]]*)(:\d{1,5})?")
REMEDY = "expected postgresql://user:password@host:5432/database, special characters of a password as %XX"


@dataclass(frozen=True, slots=True)
class Dsn:
    """Where Postgres is and how to talk to it. `repr` leaves the address out: it holds a password."""

    dsn: str
    schema: str
    connect: Mapping[str, Any]
    max_size: int | None
    warnings: Sequence[str]

    def __repr__(self) -> str:
        return f"Dsn(schema={self.schema!r}, max_size={self.max_size}, warnings={list(self.warnings)})"


def clean_dsn(url: str) -> Dsn:
    """Read a DATABASE_URL. Raises ConfigError, which repeats nothing of it."""
    parts = _parts(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    kept = {name: value for name, value in given.items() if name in SUPPORTED_PARAMETERS}
    # A pooler may stand in between without anybody saying so, and would mix up prepared statements.
    connect: dict[str, Any] = {"statement_cache_size": 0, "timeout": _seconds(given.pop("connect_timeout", ""))}
    max_size = _count(given.pop("connection_limit", ""))
    schema = given.pop("schema", "") or "public"
    _resolve_tls(given, kept, connect)
    kept.setdefault("application_name", "flowstate-daemon")
    unknown = sorted(given.keys() - SUPPORTED_PARAMETERS - IGNORED_PARAMETERS)
    return Dsn(
        dsn=parts._replace(query=urlencode(kept, quote_via=quote)).geturl(),
        schema=schema,
        connect=connect,
        max_size=max_size,
        warnings=tuple(f"DATABASE_URL: the parameter {name} has no meaning here and is left out" for name in unknown),
    )


def _parts(url: str) -> SplitResult:
    """The URL in parts, once it is certain that none of them is a torn password."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        raise ConfigError([f"DATABASE_URL: is no URL; {REMEDY}"]) from None
    if parts.scheme not in {"postgresql", "postgres"}:
        raise ConfigError([f"DATABASE_URL: is not for Postgres; {REMEDY}"])
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if not all(HOST.fullmatch(host) for host in hosts) or "@" in parts.path or parts.fragment:
        raise ConfigError([f"DATABASE_URL: the part with the host makes no sense; {REMEDY}"])
    return parts


def _resolve_tls(given: dict[str, str], kept: dict[str, str], connect: dict[str, Any]) -> None:
    """Node's and Prisma's ways to say it, in libpq's words."""
    if kept.get("sslmode") == "no-verify":
        kept["sslmode"] = "require"
    if "sslkey" in kept and "sslcert" in given:
        kept["sslcert"] = given.pop("sslcert")  # without a key it is Prisma's name for the authority
    if given.pop("sslaccept", "") == "strict":
        if "sslcert" in given:
            kept.setdefault("sslrootcert", given.pop("sslcert"))
        if "sslrootcert" in kept:
            kept["sslmode"] = "verify-full"
        else:
            connect["ssl"] = True  # asyncpg: verify against the system's authorities


def _seconds(text: str) -> float:
    """A time limit; Prisma's 0 means none, and there always is one here."""
    return float(text) if text.isdecimal() and int(text) else CONNECT_TIMEOUT_S


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() and int(text) else None
