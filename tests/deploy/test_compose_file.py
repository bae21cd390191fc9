"""The content of docker-compose.yml; test_compose.py starts it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowstate_daemon import __version__
from flowstate_daemon.config.loader import ENV_NAMES, KEYS
from flowstate_daemon.config.settings import QueueSettings
from tests.deploy.compose_secrets import create_secrets
from tests.deploy.pins import is_secret
from tests.docs.pages import PAGES

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
FILE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, Any] = FILE["services"]
OWN = ("daemon", "database-role", "prometheus", "grafana")
PAGE = PAGES["docs/container.md"]


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_has_a_digest_and_a_health_check(name: str) -> None:
    """Every image is pinned and has a health check, which the start order needs; the daemon's is in its image."""
    if name != "daemon":
        image = r"\$\{IMAGE_[A-Z]+:-[a-z/]+:v?\d+\.\d+(\.\d+)?(-alpine)?@sha256:[0-9a-f]{64}\}"
        assert re.fullmatch(image, SERVICES[name]["image"])
    assert "healthcheck" in SERVICES[name] or name in {"daemon", "database-role"}
    assert SERVICES[name].get("healthcheck", {"test": ["CMD"]})["test"][0] == "CMD"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_limits(name: str) -> None:
    """No service can use up the memory, processes or files of the host, gain privileges, or fill its disk."""
    service = SERVICES[name]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert 0 < service["pids_limit"] <= 256
    assert 0 < service["ulimits"]["nofile"] <= 16384
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["logging"]["driver"] == "json-file"
    assert re.fullmatch(r"\d+m", service["logging"]["options"]["max-size"])
    assert int(service["logging"]["options"]["max-file"]) > 1


def test_redis_refuses_writes_before_its_memory_limit() -> None:
    """Half of the memory of the container is for data, so that the copy of a rewrite fits."""
    command = " ".join(SERVICES["redis"]["command"])
    (limit,) = re.findall(r"--maxmemory (\d+)mb", command)
    assert int(limit) * 2 <= int(SERVICES["redis"]["mem_limit"].removesuffix("m"))


def test_only_the_daemon_reaches_the_stores() -> None:
    """Each service names its networks; those of the stores are shared with the daemon alone, and lead nowhere else."""
    members: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for network in service["networks"]:
            members.setdefault(network, set()).add(name)
    assert members == {
        "stores": {"daemon", "redis", "postgres", "database-role"},
        "metrics": {"daemon", "prometheus"},
        "dashboards": {"prometheus", "grafana"},
    }
    assert FILE["networks"]["stores"] == {"internal": True}


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
    """The daemon depends on Redis and its Postgres role; it would wait by itself, but would log warnings."""
    waits = {name: wait["condition"] for name, wait in SERVICES["daemon"]["depends_on"].items()}
    assert waits == {
        "redis": "service_healthy",
        "postgres": "service_healthy",
        "database-role": "service_completed_successfully",
    }


def test_stop_grace_period_is_longer_than_the_drain() -> None:
    """The grace period exceeds the shutdown timeout by at least 10 s, so the drain ends before the kill."""
    assert seconds(SERVICES["daemon"]["stop_grace_period"]) >= QueueSettings().shutdown_timeout_s + 10


def test_variables_of_the_daemon_exist() -> None:
    """Each variable is a setting, or names a file with its value, or belongs to OpenTelemetry."""
    names = [name.removesuffix("_FILE") for name in SERVICES["daemon"]["environment"]]
    assert set(names) - set(ENV_NAMES) == {"OTEL_EXPORTER_OTLP_ENDPOINT"}


def test_every_secret_of_the_daemon_is_settable() -> None:
    """Each setting that holds a secret comes from a file, except those of set-ups that this file does not have."""
    files = {name for name in SERVICES["daemon"]["environment"] if name.endswith("_FILE")}
    elsewhere = {"redis.password", "redis.sentinel_password", "resend.proxy_url"}
    elsewhere |= {"health.heartbeat_url", "health.alert_url"}
    settable = {".".join(ENV_NAMES[name.removesuffix("_FILE")]) for name in files}
    assert settable == {f"{section}.{key}" for section, key in KEYS if is_secret(section, key)} - elsewhere


def test_redis_is_persistent_and_never_evicts() -> None:
    """Redis writes an append-only file and does not evict keys."""
    command = " ".join(SERVICES["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_secrets_are_files_only() -> None:
    """No variable contains a secret, each used secret is a file, and git ignores their folder."""
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            secret = re.search("KEY|SECRET|PASSWORD|TOKEN|DATABASE_URL|REDIS_URL", name)
            assert not secret or value == f"/run/secrets/{value.rpartition('/')[2]}", name
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == set(FILE["secrets"])
    assert all(secret["file"].startswith("./secrets/") for secret in FILE["secrets"].values())
    assert "secrets/" in (ROOT / ".gitignore").read_text().split()


def test_commands_of_the_page_create_every_secret(tmp_path: Path) -> None:
    """The commands create a strong value for each secret, no two alike, and the URLs contain the right passwords."""
    created = create_secrets(tmp_path)
    assert set(created) == set(FILE["secrets"])
    strong = ("link_secret", "api_token", "read_token", "postgres_password", "mailer_password", "grafana_password")
    assert all(re.fullmatch("[0-9a-f]{48}", created[name]) for name in strong)
    assert len({created[name] for name in strong}) == len(strong)
    assert f"//mailer:{created['mailer_password']}@postgres:5432/flowstate?" in created["database_url"]
    (password,) = re.findall(r"^user mailer on >([0-9a-f]{48}) ", created["redis_users"], re.MULTILINE)
    assert created["redis_url"] == f"redis://mailer:{password}@redis:6379"


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
