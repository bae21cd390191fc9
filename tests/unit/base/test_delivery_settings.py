"""Where emails go is an explicit choice: `run` refuses to start without an API key unless the outbox is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.config.loader import load
from flowstate_daemon.daemon.builders import build_gateway
from flowstate_daemon.delivery.outbox import Outbox
from flowstate_daemon.delivery.resend_gateway import ResendGateway

SENDER = {"RESEND_FROM_EMAIL": "hello@flowstate.dev"}
KEY = {"RESEND_API_KEY": "re_key"}
OUTBOX = {"FLOWSTATE_DELIVERY": "outbox"}


def errors(environ: dict[str, str], file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load({**SENDER, **environ}, file, sending=True)
    return "\n".join(caught.value.errors)


def folder_with(folder: Path, **credentials: str) -> dict[str, str]:
    for name, content in credentials.items():
        (folder / name.replace("__", ".")).write_text(content)
    return {"CREDENTIALS_DIRECTORY": str(folder)}


@pytest.mark.parametrize("environ", [{}, {"RESEND_API_KEY": ""}, {"RESEND_API_KEY": "  "}, {"RESEND_API_KEY_FILE": ""}])
def test_missing_key_is_refused(environ: dict[str, str]) -> None:
    """Unset and empty are the same, and the message names both ways out."""
    text = errors(environ)
    assert text.startswith("RESEND_API_KEY: missing")
    assert "FLOWSTATE_DELIVERY=outbox" in text


def test_missing_key_is_refused_only_by_run() -> None:
    """Other commands send nothing; shadow mode does not either."""
    assert load({}).delivery == "resend"
    assert load({**SENDER, "FLOWSTATE_MODE": "shadow"}, sending=True).delivery == "none"


@pytest.mark.parametrize("key", [{}, KEY])
def test_outbox_is_used_when_it_is_asked_for(key: dict[str, str], tmp_path: Path) -> None:
    """With a key too: a test system that got the key of production must not send."""
    for environ in (OUTBOX, {"FLOWSTATE_DELIVERY": "Outbox"}, {"FLOWSTATE_QUEUE_DELIVERY": "outbox"}):
        config = load({**SENDER, **key, **environ, "FLOWSTATE_OUTBOX_FOLDER": str(tmp_path)}, sending=True)
        assert config.delivery == "outbox"
        assert isinstance(build_gateway(config), Outbox)
    assert isinstance(build_gateway(load({**SENDER, **KEY}, sending=True)), ResendGateway)


def test_outbox_can_be_asked_for_in_the_file(tmp_path: Path) -> None:
    """It is a setting like any other, and an unknown value is an error."""
    file = tmp_path / "settings.toml"
    file.write_text('[queue]\ndelivery = "outbox"\n')
    assert load(SENDER, file, sending=True).delivery == "outbox"
    assert "should be 'resend' or 'outbox'" in errors({"FLOWSTATE_DELIVERY": "folder"})


def test_no_gateway_without_a_key() -> None:
    """Also where the configuration was not loaded for sending, nothing falls back to the outbox."""
    with pytest.raises(ConfigError, match="RESEND_API_KEY: missing"):
        build_gateway(load(SENDER))


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("RESEND_APIKEY", "RESEND_API_KEY"),
        ("RESEND_KEY", "RESEND_API_KEY"),
        ("RESEND_API_KEYS", "RESEND_API_KEY"),
        ("RESEND_API_KEY_FIEL", "RESEND_API_KEY_FILE"),
        ("RESEND_APIKEY_FILE", "RESEND_API_KEY_FILE"),
        ("resend_api_key", "RESEND_API_KEY"),
    ],
)
def test_misspelt_variable_of_the_key_is_named(name: str, meant: str) -> None:
    """The message contains the name that was found, and never its value."""
    text = errors({name: "re_geheim"})
    assert f"{name} is set; did you mean {meant}?" in text
    assert "geheim" not in text


@pytest.mark.parametrize(
    "name",
    ["resend_apikey", "resend_api_key__txt", "RESEND_API-KEY", "flowstate-daemon__resend_api_key", "databse_url"],
)
def test_misspelt_credential_is_an_error(name: str, tmp_path: Path) -> None:
    """It was meant for the daemon, and without it something would be missing silently."""
    text = errors({**KEY, **folder_with(tmp_path, **{name: "re_geheim"})})
    assert f"credential {name.replace('__', '.')}: no such setting; did you mean " in text
    assert "geheim" not in text


def test_credential_of_another_purpose_is_allowed(tmp_path: Path) -> None:
    """A file that a setting names, and a name that resembles none."""
    environ = folder_with(tmp_path, redis_ca_file__pem="-", tls__crt="-", secrets__json="{}", redis_password__txt="p")
    environ["FLOWSTATE_REDIS_CA_FILE"] = str(tmp_path / "redis_ca_file.pem")
    environ["REDIS_PASSWORD_FILE"] = str(tmp_path / "redis_password.txt")
    load({**SENDER, **KEY, **environ}, sending=True)


@pytest.mark.parametrize("content", ["", "\n", " \r\n"])
def test_empty_secret_file_is_an_error(content: str, tmp_path: Path) -> None:
    """Whoever sets up the file means it to hold something: unlike an empty variable it does not count as unset."""
    file = tmp_path / "empty"
    file.write_text(content)
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for environ in (
        {"RESEND_API_KEY_FILE": str(file), **OUTBOX},
        {"DATABASE_URL_FILE": str(file), **KEY},
        {**folder_with(credentials, resend_api_key=content), **OUTBOX},
    ):
        assert "is empty; expected a file with the value alone" in errors(environ)


def test_configuration_is_checked_without_credentials() -> None:
    """A reload under systemd verifies the settings in a process that cannot read credentials."""
    load(SENDER, sending=True, with_credentials=False)
    load({**SENDER, "CREDENTIALS_DIRECTORY": "/nonexistent"}, sending=True, with_credentials=False)
