"""DATABASE_URL as deployments write it, converted for asyncpg."""

from __future__ import annotations

from urllib.parse import parse_qs, quote, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.database.dsn import CONNECT_TIMEOUT_S, clean_dsn

PRISMA = "postgresql://user:pass@host:5432/flowstate?schema=public"


def query(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(clean_dsn(url).dsn).query)


def test_schema_parameter_is_removed() -> None:
    """`?schema=public` becomes a field; the rest connects with our application name, without prepared statements."""
    dsn = clean_dsn(PRISMA)
    assert dsn.dsn == "postgresql://user:pass@host:5432/flowstate?application_name=flowstate-daemon"
    assert (dsn.schema, dsn.max_size, dsn.warnings) == ("public", None, ())
    assert dsn.connect == {"statement_cache_size": 0, "timeout": CONNECT_TIMEOUT_S}


def test_supported_prisma_parameters_become_arguments() -> None:
    """connection_limit, connect_timeout and schema apply, pgbouncer always does, others are reported and removed."""
    dsn = clean_dsn(
        "postgres://u@h/d?schema=app&connection_limit=3&connect_timeout=5&pgbouncer=true&pool_timeout=9&channel_binding=x"
    )
    assert (dsn.schema, dsn.max_size, dsn.connect["timeout"]) == ("app", 3, 5.0)
    assert [warning.split()[3] for warning in dsn.warnings] == ["channel_binding", "pool_timeout"]


@pytest.mark.parametrize("value", ["0", "", "many", "-1"])
def test_invalid_numbers_mean_the_default(value: str) -> None:
    """A limit of zero, or one that is not a number, is ignored."""
    dsn = clean_dsn(f"{PRISMA}&connection_limit={value}&connect_timeout={value}")
    assert (dsn.max_size, dsn.connect["timeout"]) == (None, CONNECT_TIMEOUT_S)


def test_tls_is_never_weaker_than_requested() -> None:
    """sslaccept=strict verifies, against the given CA or the system's; no-verify still encrypts."""
    assert query(f"{PRISMA}&sslmode=no-verify")["sslmode"] == ["require"]
    assert query(f"{PRISMA}&sslmode=verify-full&sslrootcert=/ca.pem")["sslmode"] == ["verify-full"]
    assert clean_dsn(f"{PRISMA}&sslmode=require&sslaccept=strict").connect["ssl"] is True
    own = query(f"{PRISMA}&sslmode=require&sslaccept=strict&sslcert=/ca.pem")
    assert (own["sslmode"], own["sslrootcert"]) == (["verify-full"], ["/ca.pem"])
    client = query(f"{PRISMA}&sslcert=/c.pem&sslkey=/k.pem")
    assert (client["sslcert"], client["sslkey"]) == (["/c.pem"], ["/k.pem"])


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://postgres@/flowstate?host=%2Frun%2Fpostgresql",
        "postgresql://u:p@[::1]:5432/d",
        "postgresql://u:p@a:5432,b:5433/d?target_session_attrs=primary",
        "postgresql:///d",
    ],
)
def test_other_forms_of_an_address_are_kept(url: str) -> None:
    """Sockets, IPv6, several hosts and no host are accepted."""
    kept, given_ = urlsplit(clean_dsn(url).dsn), urlsplit(url)
    assert (kept.netloc, kept.path) == (given_.netloc, given_.path)
    assert parse_qs(kept.query).items() >= parse_qs(given_.query).items()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:geheim@h/d",
        "postgresql://u:geh/eim@h/d",
        "postgresql://u:12/eim@h/d",
        "postgresql://u:geh#eim@h/d",
        "postgresql://u:geheim@h:port/d",
        "postgresql://u:geheim@[::1/d",
        "geheim",
    ],
)
def test_unescaped_password_is_refused_without_being_shown(url: str) -> None:
    """The message says how to escape it, and contains no part of it."""
    with pytest.raises(ConfigError, match="%XX") as caught:
        clean_dsn(url)
    assert "geh" not in caught.value.reason
    assert "eim" not in caught.value.reason


@given(user=st.text(min_size=1), password=st.text(min_size=1), schema=st.text(min_size=1))
def test_escaped_credentials_are_kept_and_never_shown(user: str, password: str, schema: str) -> None:
    """Any escaped credentials are passed unchanged, and `repr` omits them."""
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    dsn = clean_dsn(f"postgresql://{login}@host/d?schema={quote(schema, safe='')}")
    assert urlsplit(dsn.dsn).netloc == f"{login}@host"
    assert dsn.schema == schema
    assert "host" not in repr(dsn)
