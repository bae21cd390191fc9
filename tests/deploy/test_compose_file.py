"""docker-compose.yml as it is written; test_compose.py brings it up."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowstate_daemon import __version__
from flowstate_daemon.config.loader import ENV_NAMES
from flowstate_daemon.config.settings import QueueSettings
from tests.docs.pages import PAGES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = FILE["services"]
OWN = ("daemon", "prometheus", "grafana")
PAGE = PAGES["docs/container.md"]


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_has_a_version_and_a_health_check(name: str) -> None:
    """Nothing floats, and an order of start can be kept; ours brings its check along."""
    _, _, tag = SERVICES[name]["image"].partition(":")
    assert re.match(r"v?\d", tag)
    assert "healthcheck" in SERVICES[name] or name == "daemon"
    assert SERVICES[name].get("healthcheck", {"test": ["CMD"]})["test"][0] == "CMD"


@pytest.mark.parametrize("name", OWN)
def test_what_needs_no_rights_has_none(name: str) -> None:
    """Read-only, no capabilities, no way to get any."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "cap_add" not in service


def test_the_daemon_is_the_one_that_the_dockerfile_makes() -> None:
    """Image and package carry one version."""
    assert SERVICES["daemon"]["image"] == f"flowstate-daemon:{__version__}"


def test_the_daemon_starts_after_its_stores_are_healthy() -> None:
    """It would wait for them by itself; this only keeps the first lines of its log quiet."""
    waits = {name: wait["condition"] for name, wait in SERVICES["daemon"]["depends_on"].items()}
    assert waits == {"redis": "service_healthy", "postgres": "service_healthy"}


def test_the_drain_is_over_before_the_kill() -> None:
    """The grace is longer than what mails under way get, with time to settle."""
    assert seconds(SERVICES["daemon"]["stop_grace_period"]) >= QueueSettings().shutdown_timeout_s + 10


def test_every_variable_of_the_daemon_exists() -> None:
    """Each is a setting, or a file with one."""
    names = [name.removesuffix("_FILE") for name in SERVICES["daemon"]["environment"]]
    assert set(names) <= set(ENV_NAMES)


def test_redis_is_a_queue_and_no_cache() -> None:
    """What was acknowledged is kept."""
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_secrets_come_in_files_only() -> None:
    """No service has a secret among its variables, each secret used is a file, and git ignores the folder."""
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            secret = re.search("KEY|SECRET|PASSWORD|DATABASE_URL", name)
            assert not secret or value == f"/run/secrets/{value.rpartition('/')[2]}", name
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == set(FILE["secrets"])
    assert all(secret["file"].startswith("./secrets/") for secret in FILE["secrets"].values())
    assert "secrets/" in (ROOT / ".gitignore").read_text().split()


def test_the_page_makes_every_secret(tmp_path: Path) -> None:
    """Its commands leave one file for each, strong enough, and the URL opens the database that is made with them."""
    (commands,) = (block.text for block in PAGE.blocks if "mkdir -p secrets" in block.text)
    subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, check=True)
    made = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    assert set(made) == set(FILE["secrets"])
    assert all(re.fullmatch("[0-9a-f]{48}", made[name]) for name in ("link_secret", "postgres_password"))
    assert f"//flowstate:{made['postgres_password']}@postgres:5432/flowstate?" in made["database_url"]
    assert made["grafana_password"] != made["link_secret"]


def test_the_page_tells_every_variable() -> None:
    """Whatever the file asks of whoever brings it up has a row, with the default that it has here."""
    defaults = {name: default for name, _, default in re.findall(r"\$\{(\w+):([-?])([^}]*)\}", TEXT)}
    table = next(table for table in PAGE.tables if table[0][0] == "variable")
    output = {name: row[2] for row in table[1:] for name in re.findall(r"`(\w+)`", row[0])}
    assert output.keys() == defaults.keys()
    for name in ("APP_NAME", "DAEMON_PORT", "FLOWSTATE_QUEUE_INSTANCE_ID"):
        assert output[name].strip("`") == defaults[name]


def test_nothing_is_published_to_the_network() -> None:
    """Redis and Postgres are reached by the daemon only; what is published, is published to this machine."""
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert not {"ports", "network_mode"} & (SERVICES["redis"].keys() | SERVICES["postgres"].keys())


def test_the_watchers_come_on_demand() -> None:
    """Prometheus and Grafana start with the profile `observability` only, and every file that they get is there."""
    assert {name for name, service in SERVICES.items() if "profiles" in service} == {"prometheus", "grafana"}
    mounted = [volume.split(":")[0] for name in OWN for volume in SERVICES[name].get("volumes", [])]
    assert all((ROOT / place).exists() for place in mounted if place.startswith("."))
    assert {place for place in mounted if not place.startswith(".")} <= set(FILE["volumes"])
