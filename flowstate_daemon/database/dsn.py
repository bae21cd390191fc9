"""Converts Prisma's DATABASE_URL into arguments of asyncpg. Pure; `pool.py` connects with the result.

asyncpg passes unknown parameters to the server, which rejects them: parameters of Prisma are removed, and those that
apply to asyncpg become arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, urlencode, urlsplit

from flowstate_daemon.base.errors import ConfigError

CONNECT_TIMEOUT_S = 10.0
# Parameters that asyncpg or the server knows.
SUPPORTED_PARAMETERS = frozenset(
    {
        *("host", "port", "user", "password", "database", "dbname", "passfile", "target_session_attrs"),
        *("sslmode", "sslrootcert", "sslkey", "sslcrl", "sslnegotiation", "sslpassword"),
        *("ssl_min_protocol_version", "ssl_max_protocol_version", "krbsrvname", "gsslib"),
        *("application_name", "options"),
    }
)
# Parameters whose effect is always on: no prepared statements, no certificate check without `sslaccept=strict`.
IGNORED_PARAMETERS = frozenset({"pgbouncer", "statement_cache_size", "uselibpqcompat"})
HOST = re.compile(r"(\[[0-9A-Za-z:.%]+\]|[^:\[\]]*)(:\d{1,5})?")
REMEDY = "expected postgresql://user:password@host:5432/database, special characters of a password as %XX"


@dataclass(frozen=True, slots=True)
class Dsn:
    """The address of Postgres and the connection arguments. `repr` omits the address: it contains a password."""

    dsn: str
    schema: str
    connect: Mapping[str, Any]
    max_size: int | None
    warnings: Sequence[str]

    def __repr__(self) -> str:
        return f"Dsn(schema={self.schema!r}, max_size={self.max_size}, warnings={list(self.warnings)})"


def clean_dsn(url: str) -> Dsn:
    """Parse a DATABASE_URL. Raises ConfigError, whose message contains no part of it."""
    parts = _parts(url)
    given = dict(parse_qsl(parts.query, keep_blank_values=True))
    kept = {name: value for name, value in given.items() if name in SUPPORTED_PARAMETERS}
    # There may be a connection pooler that the URL does not mention, and poolers mix up prepared statements.
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
        warnings=tuple(f"DATABASE_URL: the parameter {name} is not supported and is ignored" for name in unknown),
    )


def _parts(url: str) -> SplitResult:
    """The URL split into parts, if none of them can be a fragment of an unescaped password."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        raise ConfigError([f"DATABASE_URL: is not a URL; {REMEDY}"]) from None
    if parts.scheme not in {"postgresql", "postgres"}:
        raise ConfigError([f"DATABASE_URL: is not a Postgres URL; {REMEDY}"])
    hosts = parts.netloc.rpartition("@")[2].split(",")
    if not all(HOST.fullmatch(host) for host in hosts) or "@" in parts.path or parts.fragment:
        raise ConfigError([f"DATABASE_URL: the host is invalid; {REMEDY}"])
    return parts


def _resolve_tls(given: dict[str, str], kept: dict[str, str], connect: dict[str, Any]) -> None:
    """Translate TLS parameters of Node and Prisma into those of libpq."""
    if kept.get("sslmode") == "no-verify":
        kept["sslmode"] = "require"
    if "sslkey" in kept and "sslcert" in given:
        kept["sslcert"] = given.pop("sslcert")  # without a key, Prisma uses this name for the CA
    if given.pop("sslaccept", "") == "strict":
        if "sslcert" in given:
            kept.setdefault("sslrootcert", given.pop("sslcert"))
        if "sslrootcert" in kept:
            kept["sslmode"] = "verify-full"
        else:
            connect["ssl"] = True  # asyncpg: verify against the system's CAs


def _seconds(text: str) -> float:
    """A timeout; 0 means none in Prisma, but here there always is one."""
    return float(text) if text.isdecimal() and int(text) else CONNECT_TIMEOUT_S


def _count(text: str) -> int | None:
    return int(text) if text.isdecimal() and int(text) else None
