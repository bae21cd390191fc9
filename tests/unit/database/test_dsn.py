"""DATABASE_URL as deployments write it, made fit for asyncpg."""

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


def test_prismas_usual_form_loses_its_schema() -> None:
    """`?schema=public` becomes a field; what is left connects, under our own name, without prepared statements."""
    dsn = clean_dsn(PRISMA)
    assert dsn.dsn == "postgresql://user:pass@host:5432/flowstate?application_name=flowstate-daemon"
    assert (dsn.schema, dsn.max_size, dsn.warnings) == ("public", None, ())
    assert dsn.connect == {"statement_cache_size": 0, "timeout": CONNECT_TIMEOUT_S}


def test_what_means_something_here_becomes_an_argument() -> None:
    """connection_limit, connect_timeout and schema are obeyed, pgbouncer always is, the rest is named and left out."""
    dsn = clean_dsn(
        "postgres://u@h/d?schema=app&connection_limit=3&connect_timeout=5&pgbouncer=true&pool_timeout=9&channel_binding=x"
    )
    assert (dsn.schema, dsn.max_size, dsn.connect["timeout"]) == ("app", 3, 5.0)
    assert [warning.split()[3] for warning in dsn.warnings] == ["channel_binding", "pool_timeout"]


@pytest.mark.parametrize("value", ["0", "", "many", "-1"])
def test_senseless_numbers_fall_back(value: str) -> None:
    """A limit of nothing, or one that is no number, is none."""
    dsn = clean_dsn(f"{PRISMA}&connection_limit={value}&connect_timeout={value}")
    assert (dsn.max_size, dsn.connect["timeout"]) == (None, CONNECT_TIMEOUT_S)


def test_tls_is_never_weaker_than_asked_for() -> None:
    """Prisma's sslaccept=strict verifies, against its own authority or the system's; no-verify still encrypts."""
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
def test_other_forms_of_an_address_stay_as_they_are(url: str) -> None:
    """Sockets, IPv6, several hosts and none go through."""
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
def test_a_torn_address_is_refused_without_repeating_it(url: str) -> None:
    """An unquoted character in a password makes nonsense of the rest: it is said how to write it, not what it was."""
    with pytest.raises(ConfigError, match="%XX") as caught:
        clean_dsn(url)
    assert "geh" not in caught.value.reason
    assert "eim" not in caught.value.reason


@given(user=st.text(min_size=1), password=st.text(min_size=1), schema=st.text(min_size=1))
def test_a_quoted_login_stays_and_is_never_shown(user: str, password: str, schema: str) -> None:
    """Any login that is quoted arrives as it was, and `repr` keeps it to itself."""
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    dsn = clean_dsn(f"postgresql://{login}@host/d?schema={quote(schema, safe='')}")
    assert urlsplit(dsn.dsn).netloc == f"{login}@host"
    assert dsn.schema == schema
    assert "host" not in repr(dsn)
