"""The settings of the systemd unit, read by commands outside of it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from flowstate_daemon.config.loader import ENV_NAMES
from flowstate_daemon.config.unit_settings import (
    CREDENTIAL_STORES,
    ENVIRONMENT_FILE,
    UNIT,
    UnitSettings,
    parse_environment_file,
    read_unit_settings,
)

ROOT = Path(__file__).parents[3]
NOBODY = 65534


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may read everything; a test of permissions needs somebody else."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The files of an installed service, with the permissions that install.sh and the documentation give them."""
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent != Path("/tmp") and parent.is_relative_to("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    (tmp_path / "environment").write_text("REDIS_URL=redis://10.0.0.5:6379\n")
    (tmp_path / "environment").chmod(0o600)
    for store in ("credstore", "credstore.encrypted"):
        (tmp_path / store).mkdir(mode=0o700)
    (tmp_path / "credstore" / "flowstate-daemon.redis_password").write_text("geheim\n")
    (tmp_path / "credstore" / "flowstate-daemon.resend_webhook_secret").write_text("whsec\n")
    (tmp_path / "credstore" / "another.redis_password").write_text("wrong\n")
    (tmp_path / "credstore.encrypted" / "flowstate-daemon.database_url").write_text("…")
    return tmp_path


def read(host: Path) -> UnitSettings:
    stores = (host / "credstore", host / "credstore.encrypted")
    return read_unit_settings(ENV_NAMES, host / "environment", stores, (host / "etc", host / "lib"))


@pytest.mark.parametrize("unit", ["flowstate-daemon.service", "flowstate-daemon@.service"])
def test_paths_are_those_of_the_unit(unit: str) -> None:
    """A credential that the unit loads is found by the same rule, whatever its name."""
    text = (ROOT / "systemd" / unit).read_text()
    assert re.findall(r"^EnvironmentFile=-?(.*)$", text, re.MULTILINE) == [str(ENVIRONMENT_FILE)]
    loaded = re.findall(r"^LoadCredential=(\w+):(\S+)$", text, re.MULTILINE)
    assert len(loaded) >= 6
    for name, file in loaded:
        assert name.upper() in ENV_NAMES
        assert file == f"{UNIT}.{name.removeprefix('flowstate_')}"
    assert str(CREDENTIAL_STORES[0]) == "/etc/credstore"


def test_root_reads_variables_and_credentials(host: Path) -> None:
    """Files of other programs in the store are not ours; encrypted ones are known by name."""
    found = read(host)
    assert found.variables == {"REDIS_URL": "redis://10.0.0.5:6379"}
    assert {name: file.name for name, file in found.credentials.items() if not name.startswith("FLOWSTATE_REDIS")} == {
        "REDIS_PASSWORD": "flowstate-daemon.redis_password",
        "FLOWSTATE_RESEND_WEBHOOK_SECRET": "flowstate-daemon.resend_webhook_secret",
    }
    assert "DATABASE_URL" in found.encrypted
    assert found.unreadable == ()


def test_what_an_ordinary_user_cannot_read_is_named(host: Path) -> None:
    """So that a command can say what it lacks instead of using defaults."""
    if os.geteuid():
        (host / "environment").chmod(0)
        for store in ("credstore", "credstore.encrypted"):
            (host / store).chmod(0)
    with ordinary_user():
        found = read(host)
    for store in ("credstore", "credstore.encrypted"):
        (host / store).chmod(0o700)
    assert found.unreadable == (host / "environment", host / "credstore", host / "credstore.encrypted")
    assert (found.variables, found.credentials) == ({}, {})


def test_nothing_is_read_where_no_service_is_installed(tmp_path: Path) -> None:
    assert read(tmp_path / "nowhere") == UnitSettings()


def test_a_host_without_the_service_has_no_settings_of_it(host: Path) -> None:
    """systemd creates its stores on every host, for root only: they say nothing about our service."""
    (host / "environment").unlink()
    with ordinary_user():
        assert read(host) == UnitSettings()
    assert read(host) == UnitSettings()


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=b", "b"),
        ("A=b c  ", "b c"),
        ("  A = b", "b"),
        ("A='b $c \"d'", 'b $c "d'),
        ('A="b \\"c\\" \\\\ \'d\'"', "b \"c\" \\ 'd'"),
        ("A=b\\ c", "b c"),
        ("A=b'c'\"d\"", "bcd"),
        ("A=FlowState <hello@example.com>", "FlowState <hello@example.com>"),
        ("A=redis://:p%40ss#1@h:6379/0?x=y", "redis://:p%40ss#1@h:6379/0?x=y"),
        ("A=one\\\n  two", "one  two"),
        ("A=", ""),
        ("A=b\r", "b"),
        ("A=b\rB", "b"),
        ("A=b\x85c\u2028d\x0be\x1cf", "b\x85c\u2028d\x0be\x1cf"),
        ("# A=c\n; A=d\nA=b", "b"),
        ("A=c\nA=b", "b"),
        ("nonsense\n=x\n1A=c\nA=b", "b"),
    ],
)
def test_environment_file_is_read_as_systemd_reads_it(line: str, value: str) -> None:
    """Quotes, escapes, continued lines, comments; the last assignment wins."""
    assert parse_environment_file(line) == {"A": value}


@pytest.mark.parametrize(
    ("environ", "left"),
    [
        ({}, {"REDIS_URL", "FLOWSTATE_QUEUE_PREFIX", "DATABASE_URL_FILE"}),
        ({"REDIS_URL": "redis://here"}, {"FLOWSTATE_QUEUE_PREFIX", "DATABASE_URL_FILE"}),
        ({"REDIS_HOST": "here"}, {"FLOWSTATE_QUEUE_PREFIX", "DATABASE_URL_FILE"}),
        ({"FLOWSTATE_REDIS_URL_FILE": "/here"}, {"FLOWSTATE_QUEUE_PREFIX", "DATABASE_URL_FILE"}),
        ({"REDIS_URL": " "}, {"REDIS_URL", "FLOWSTATE_QUEUE_PREFIX", "DATABASE_URL_FILE"}),
        ({"FLOWSTATE_DATABASE_URL": "postgresql://h/d"}, {"REDIS_URL", "FLOWSTATE_QUEUE_PREFIX"}),
    ],
)
def test_what_the_shell_sets_itself_wins_under_any_name(environ: dict[str, str], left: set[str]) -> None:
    """A Redis named in the shell replaces the whole address of the unit, not only one of its parts."""
    variables = {"REDIS_URL": "redis://unit", "FLOWSTATE_QUEUE_PREFIX": "p", "DATABASE_URL_FILE": "/unit"}
    assert set(UnitSettings(variables).without(environ, ENV_NAMES).variables) == left


def test_the_password_of_the_service_is_not_sent_to_another_server() -> None:
    """Neither from the environment file nor from a credential."""
    unit = UnitSettings({"REDIS_PASSWORD": "geheim", "APP_NAME": "F"}, credentials={"REDIS_PASSWORD": Path("/store/p")})
    left = unit.without({"REDIS_HOST": "elsewhere"}, ENV_NAMES)
    assert (left.variables, left.credentials) == ({"APP_NAME": "F"}, {})
    assert unit.without({"REDIS_PASSWORD": "mine"}, ENV_NAMES).credentials == {}
    assert unit.without({}, ENV_NAMES) == unit


def drop_in(host: Path, place: str, text: str) -> None:
    file = host / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_variables_of_unit_file_and_drop_ins_are_read(host: Path) -> None:
    """`systemctl edit` writes them; the environment file overrides them, and each variable names its file."""
    drop_in(
        host, "lib/flowstate-daemon.service", "[Unit]\nEnvironment=APP_NAME=Wrong\n[Service]\nEnvironment=A=1 B=1\n"
    )
    text = '[Service]\nEnvironment="APP_NAME=Flow State" REDIS_URL=redis://drop-in B=2\n'
    drop_in(host, "etc/flowstate-daemon.service.d/override.conf", text)
    found = read(host)
    assert found.variables == {"A": "1", "B": "2", "APP_NAME": "Flow State", "REDIS_URL": "redis://10.0.0.5:6379"}
    assert found.origins["APP_NAME"] == host / "etc/flowstate-daemon.service.d/override.conf"
    assert found.origins["REDIS_URL"] == host / "environment"


def test_drop_ins_apply_in_the_order_of_systemd(host: Path) -> None:
    """By file name; one in /etc replaces the one of the same name, and an empty assignment resets."""
    drop_in(host, "lib/flowstate-daemon.service.d/10-a.conf", "[Service]\nEnvironment=A=lib\n")
    drop_in(host, "etc/flowstate-daemon.service.d/10-a.conf", "[Service]\nEnvironment=A=etc\n")
    drop_in(host, "etc/flowstate-.service.d/20-b.conf", "[Service]\nEnvironment=B=prefix C=prefix\n")
    drop_in(host, "etc/service.d/05-all.conf", "[Service]\nEnvironment=A=all D=all\n")
    drop_in(host, "lib/flowstate-daemon.service.d/30-c.conf", "[Service]\nEnvironment=C=last\n")
    (host / "environment").write_text("")
    assert read(host).variables == {"D": "all", "A": "etc", "B": "prefix", "C": "last"}
    drop_in(host, "etc/flowstate-daemon.service.d/40-d.conf", "[Service]\nEnvironment=\nEnvironment=E=1\n")
    assert read(host).variables == {"E": "1"}


def test_drop_ins_name_environment_files_and_credentials(host: Path) -> None:
    """A further file overrides the first one; a missing one is no error; a credential may be at any place."""
    (host / "more").write_text("REDIS_URL=redis://more\n")
    text = (
        f"[Service]\nEnvironmentFile=-{host}/more\nEnvironmentFile=-{host}/missing\n"
        f"LoadCredential=database_url:{host}/secret\nLoadCredentialEncrypted=resend_api_key:{host}/hidden\n"
        "LoadCredential=other:/root/file\nLoadCredential=redis_url:relative\n"
    )
    drop_in(host, "etc/flowstate-daemon.service.d/override.conf", text)
    found = read(host)
    assert found.variables == {"REDIS_URL": "redis://more"}
    assert found.credentials["DATABASE_URL"] == host / "secret"
    assert found.encrypted["RESEND_API_KEY"] == host / "hidden"
    assert found.unreadable == ()


def test_drop_in_that_cannot_be_read_is_named(host: Path) -> None:
    """A command must not use another Redis than the daemon because of it."""
    file = host / "etc/flowstate-daemon.service.d/override.conf"
    drop_in(host, "etc/flowstate-daemon.service.d/override.conf", "[Service]\nEnvironment=REDIS_URL=redis://x\n")
    file.chmod(0)
    (host / "environment").chmod(0o644)
    with ordinary_user():
        found = read(host)
    assert file in found.unreadable


@pytest.mark.parametrize(
    ("value", "variables"),
    [
        ("A=b", {"A": "b"}),
        ("A=b C=d", {"A": "b", "C": "d"}),
        ('"A=b c" C=d', {"A": "b c", "C": "d"}),
        ("'A=b c'", {"A": "b c"}),
        ('A="b c"', {"A": "b c"}),
        ('"A=say \\"hi\\""', {"A": 'say "hi"'}),
        ("A=b\\sc", {"A": "b c"}),
        ("A=100%% B=%N", {"A": "100%", "B": "flowstate-daemon"}),
        ("A=redis://:p%%40ss@h:6379/0", {"A": "redis://:p%40ss@h:6379/0"}),
        ("A= B=c", {"A": "", "B": "c"}),
        ("A", {}),
        ("A=b \\\n  C=d", {"A": "b", "C": "d"}),
        ("A=b \\\n# comment\n  C=d", {"A": "b", "C": "d"}),
        ("A=b\n# Environment=A=c\n;Environment=A=d", {"A": "b"}),
        ('"A=unfinished', {"A": "unfinished"}),
    ],
)
def test_values_of_a_drop_in_are_read_as_systemd_reads_them(host: Path, value: str, variables: dict[str, str]) -> None:
    """Quotes around a part or the whole, escapes, specifiers, continued lines, comments."""
    (host / "environment").write_text("")
    drop_in(host, "etc/flowstate-daemon.service.d/override.conf", f"[Service]\nEnvironment={value}\n")
    assert read(host).variables == variables
