"""docker-compose.daemon.yml, merged by podman-compose into a compose file like that of the application."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowstate_daemon import __version__
from flowstate_daemon.config.loader import ENV_NAMES
from flowstate_daemon.config.settings import QueueSettings
from tests.deploy.compose_secrets import create_secrets
from tests.deploy.test_compose_file import SERVICES, seconds
from tests.docs.pages import PAGES

ROOT = Path(__file__).parents[2]
APP = Path(__file__).parent / "flowstate_app" / "docker-compose.yml"
FRAGMENT = ROOT / "docker-compose.daemon.yml"
FILE: dict[str, Any] = yaml.safe_load(FRAGMENT.read_text())
DAEMON: dict[str, Any] = FILE["services"]["daemon"]
CHOICES = {
    "FLOWSTATE_MODE": "shadow",
    "FLOWSTATE_SCHEDULE_ENABLED": "false",
    "RESEND_FROM_EMAIL": "FlowState <hello@flowstate.example>",
    "FRONTEND_URL": "https://app.flowstate.example",
}
APP_ENVIRONMENT = {"DB_PASSWORD": "x", "PORT": "3000", "FRONTEND_PORT": "80", "APP_NAME": "FlowState"}


def config(folder: Path, *files: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The output of `config` in a folder with the application's file; only the version of podman is needed."""
    podman = folder / "podman"
    podman.write_text("#!/bin/sh\necho podman version 4.9.0\n")
    podman.chmod(0o755)
    shutil.copy(APP, folder)
    names = [argument for file in (folder / APP.name, *files) for argument in ("-f", str(file))]
    compose = Path(sys.executable).with_name("podman-compose")
    return subprocess.run(
        [compose, "--podman-path", podman, "--no-ansi", "--in-pod", "false", *names, "config"],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "HOME": str(folder), **APP_ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def merged(folder: Path, *files: Path, **environment: str) -> dict[str, Any]:
    done = config(folder, *files, **environment)
    assert done.returncode == 0, done.stderr
    return dict(yaml.safe_load(done.stdout))


def test_only_the_daemon_is_added(tmp_path: Path) -> None:
    """Services, volumes and the project stay as they are; the daemon joins the stores of the application."""
    before, after = merged(tmp_path, **CHOICES), merged(tmp_path, FRAGMENT, **CHOICES)
    assert "name" not in FILE
    assert after["services"].keys() - before["services"].keys() == {"daemon"}
    for name, service in before["services"].items():
        assert after["services"][name] == service, name
    assert after["volumes"].keys() - before["volumes"].keys() == {"daemon_outbox"}
    assert set(after["secrets"]) == set(DAEMON["secrets"])
    daemon = after["services"]["daemon"]
    assert set(daemon["depends_on"]) == {"redis", "postgres"}
    assert "networks" not in DAEMON  # the default one, as the services of the application
    assert daemon["environment"]["REDIS_URL"] == "redis://redis:6379/0"
    assert daemon["environment"]["FLOWSTATE_MODE"] == "shadow"


@pytest.mark.parametrize("name", CHOICES)
def test_choice_without_a_default_is_asked_for(tmp_path: Path, name: str) -> None:
    """Neither a second sender nor a second schedule starts by accident; the message says what to set."""
    done = config(tmp_path, FRAGMENT, **{key: value for key, value in CHOICES.items() if key != name})
    assert done.returncode != 0
    assert "set it to" in done.stderr + done.stdout


def test_daemon_is_that_of_the_compose_file() -> None:
    """Image, limits and isolation are the same; so are the settings, except those of a migration and of the stores."""
    own: Mapping[str, Any] = SERVICES["daemon"]
    same = ("image", "restart", "security_opt", "read_only", "cap_drop", "logging", "tmpfs", "ports")
    limits = ("mem_limit", "pids_limit", "ulimits", "stop_grace_period")
    assert {name: DAEMON[name] for name in (*same, *limits)} == {name: own[name] for name in (*same, *limits)}
    assert DAEMON["image"] == f"flowstate-daemon:{__version__}"
    assert seconds(DAEMON["stop_grace_period"]) >= QueueSettings().shutdown_timeout_s + 10
    names = {name.removesuffix("_FILE") for name in DAEMON["environment"]}
    assert names == {name.removesuffix("_FILE") for name in own["environment"]} | {
        "FLOWSTATE_MODE",
        "FLOWSTATE_SCHEDULE_ENABLED",
    }
    assert names <= {*ENV_NAMES, "OTEL_EXPORTER_OTLP_ENDPOINT"}  # the SDK reads this one


def test_secrets_are_the_files_that_the_page_creates(tmp_path: Path) -> None:
    """In the folder that the page of the compose file describes; the variables name the files inside the container."""
    created = create_secrets(tmp_path)
    places = {secret["file"] for secret in FILE["secrets"].values()}
    assert places == {f"${{DAEMON_SECRETS:-./secrets}}/{name.removeprefix('daemon_')}" for name in DAEMON["secrets"]}
    assert {place.rpartition("/")[2] for place in places} <= set(created)
    used = {value for name, value in DAEMON["environment"].items() if name.endswith("_FILE")}
    assert used == {f"/run/secrets/{name}" for name in DAEMON["secrets"]}


def test_page_documents_the_variables_of_the_fragment() -> None:
    """Each variable without a default, and each that only the fragment has, is in the table of docs/container.md."""
    variables = set(re.findall(r"\$\{(\w+):", FRAGMENT.read_text()))
    documented = {name for row in PAGES["docs/container.md"].rows for name in re.findall(r"`(\w+)`", row[0])}
    assert variables <= documented
