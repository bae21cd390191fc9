"""The content of docker-compose.yml; test_compose.py starts it."""

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
    """Every image is pinned and has a health check, which the start order needs; the daemon's is in its image."""
    _, _, tag = SERVICES[name]["image"].partition(":")
    assert re.match(r"v?\d", tag)
    assert "healthcheck" in SERVICES[name] or name == "daemon"
    assert SERVICES[name].get("healthcheck", {"test": ["CMD"]})["test"][0] == "CMD"


@pytest.mark.parametrize("name", OWN)
def test_service_has_no_privileges(name: str) -> None:
    """The service is read-only, has no capabilities and cannot gain any."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert "cap_add" not in service


def test_image_version_is_the_package_version() -> None:
    """The tag of the daemon's image is the version of the package."""
    assert SERVICES["daemon"]["image"] == f"flowstate-daemon:{__version__}"


def test_daemon_starts_after_its_stores_are_healthy() -> None:
    """The daemon depends on healthy stores; it would wait by itself, but would log warnings."""
    waits = {name: wait["condition"] for name, wait in SERVICES["daemon"]["depends_on"].items()}
    assert waits == {"redis": "service_healthy", "postgres": "service_healthy"}


def test_stop_grace_period_is_longer_than_the_drain() -> None:
    """The grace period exceeds the shutdown timeout by at least 10 s, so the drain ends before the kill."""
    assert seconds(SERVICES["daemon"]["stop_grace_period"]) >= QueueSettings().shutdown_timeout_s + 10


def test_variables_of_the_daemon_exist() -> None:
    """Each variable is a setting, or names a file with its value."""
    names = [name.removesuffix("_FILE") for name in SERVICES["daemon"]["environment"]]
    assert set(names) <= set(ENV_NAMES)


def test_redis_is_persistent_and_never_evicts() -> None:
    """Redis writes an append-only file and does not evict keys."""
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_secrets_are_files_only() -> None:
    """No variable contains a secret, each used secret is a file, and git ignores their folder."""
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            secret = re.search("KEY|SECRET|PASSWORD|DATABASE_URL", name)
            assert not secret or value == f"/run/secrets/{value.rpartition('/')[2]}", name
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == set(FILE["secrets"])
    assert all(secret["file"].startswith("./secrets/") for secret in FILE["secrets"].values())
    assert "secrets/" in (ROOT / ".gitignore").read_text().split()


def test_commands_of_the_page_create_every_secret(tmp_path: Path) -> None:
    """The commands create a strong value for each secret, and the database URL contains the right password."""
    (commands,) = (block.text for block in PAGE.blocks if "mkdir -p secrets" in block.text)
    subprocess.run(["bash", "-euo", "pipefail", "-c", commands], cwd=tmp_path, check=True)
    created = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    assert set(created) == set(FILE["secrets"])
    assert all(re.fullmatch("[0-9a-f]{48}", created[name]) for name in ("link_secret", "postgres_password"))
    assert f"//flowstate:{created['postgres_password']}@postgres:5432/flowstate?" in created["database_url"]
    assert created["grafana_password"] != created["link_secret"]


def test_page_documents_every_variable() -> None:
    """Each variable of the file has a row in docs/container.md, with its default."""
    defaults = {name: default for name, _, default in re.findall(r"\$\{(\w+):([-?])([^}]*)\}", TEXT)}
    table = next(table for table in PAGE.tables if table[0][0] == "variable")
    documented = {name: row[2] for row in table[1:] for name in re.findall(r"`(\w+)`", row[0])}
    assert documented.keys() == defaults.keys()
    for name in ("APP_NAME", "DAEMON_PORT", "FLOWSTATE_QUEUE_INSTANCE_ID"):
        assert documented[name].strip("`") == defaults[name]


def test_ports_are_published_to_loopback_only() -> None:
    """Published ports are on 127.0.0.1, and Redis and Postgres publish none."""
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert not {"ports", "network_mode"} & (SERVICES["redis"].keys() | SERVICES["postgres"].keys())


def test_monitoring_services_need_a_profile() -> None:
    """Prometheus and Grafana start only with the profile `observability`, and all mounted files exist."""
    assert {name for name, service in SERVICES.items() if "profiles" in service} == {"prometheus", "grafana"}
    mounted = [volume.split(":")[0] for name in OWN for volume in SERVICES[name].get("volumes", [])]
    assert all((ROOT / place).exists() for place in mounted if place.startswith("."))
    assert {place for place in mounted if not place.startswith(".")} <= set(FILE["volumes"])
