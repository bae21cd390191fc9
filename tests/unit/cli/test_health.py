"""The command `health` without a daemon: its address, unexpected responses, and its imports."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.cli.health import DEFAULTS, HealthEndpoint, fetch, find_endpoint
from flowstate_daemon.cli.main import CONFIG, FAILED, main
from flowstate_daemon.config.settings import HttpSettings

HEAVY = {"aiohttp", "asyncio", "asyncpg", "msgspec", "pydantic", "redis", "rich", "structlog"}
SCRIPT = "import sys; from flowstate_daemon.__main__ import main; sys.argv[1:] = ['health', '--timeout', '0.1']\n"


def test_defaults_equal_those_of_the_settings() -> None:
    """The command does not import the settings, so this test keeps the two in step."""
    assert {key: value for (_section, key), value in DEFAULTS.items()} == HttpSettings().model_dump(
        include={"enabled", "host", "port"}
    )


def test_health_check_imports_no_heavy_library() -> None:
    """It runs every few seconds beside a busy daemon, so it must start quickly."""
    script = f"{SCRIPT}try:\n    main()\nexcept SystemExit:\n    print(*sys.modules)"
    environment = {"FLOWSTATE_HTTP_PORT": "0"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} & HEAVY == set()


def test_endpoint_comes_from_the_daemons_configuration(tmp_path: Path) -> None:
    """File and environment have the same precedence as for the daemon; other invalid settings are ignored."""
    file = tmp_path / "settings.toml"
    file.write_text('[http]\nhost = "192.0.2.1"\nport = 9000\n[queue]\nconcurency = 3\n')
    port = tmp_path / "port"
    port.write_text("9001\n")
    assert find_endpoint({}, file) == HealthEndpoint("192.0.2.1", 9000)
    assert find_endpoint({"FLOWSTATE_HTTP_PORT_FILE": str(port)}, file) == HealthEndpoint("192.0.2.1", 9001)
    assert find_endpoint({"FLOWSTATE_HTTP_PORT": "9002", "FLOWSTATE_NO_SUCH": "1"}, file) == HealthEndpoint(
        "192.0.2.1", 9002
    )


@pytest.mark.parametrize(("host", "queried"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("mail", "mail")])
def test_wildcard_address_is_queried_on_loopback(host: str, queried: str) -> None:
    """A wildcard address is not an address to connect to."""
    assert find_endpoint({"FLOWSTATE_HTTP_HOST": host}, None).host == queried


@pytest.mark.parametrize("environ", [{"FLOWSTATE_HTTP_ENABLED": "No"}, {"FLOWSTATE_HTTP_PORT": "0"}])
def test_status_is_unknown_without_a_fixed_port(environ: dict[str, str]) -> None:
    """The reason names the setting to change."""
    document = fetch(find_endpoint(environ, None), "live", 0.1)
    assert document["status"] == "unknown"
    assert "FLOWSTATE_HTTP_" in document["reasons"][0]


@pytest.mark.parametrize("port", ["http", "-1", "65536", "1.5"])
def test_invalid_port_is_a_configuration_error(port: str, tmp_path: Path) -> None:
    """The error names the source of the value, as for the daemon."""
    file = tmp_path / "port"
    file.write_text(port)
    with pytest.raises(ConfigError, match="FLOWSTATE_HTTP_PORT_FILE: not a port"):
        find_endpoint({"FLOWSTATE_HTTP_PORT_FILE": str(file)}, None)


def test_unreadable_configuration_file_exits_78(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Querying the default port instead could report the health of another daemon."""
    monkeypatch.setenv("FLOWSTATE_CONFIG", str(tmp_path / "nowhere.toml"))
    assert main(["health"]) == CONFIG


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listening socket that does not belong to a daemon."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def endpoint_of(server: socket.socket) -> HealthEndpoint:
    return HealthEndpoint("127.0.0.1", server.getsockname()[1])


def test_no_response_is_unreachable_after_the_timeout(listener: socket.socket) -> None:
    """The kernel accepts connections for a frozen process, but nothing responds."""
    document = fetch(endpoint_of(listener), "live", 0.2)
    assert document["status"] == "unreachable"
    assert "timed out" in document["reasons"][0]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "unknown"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"status":"alive"}', "unknown"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xff", "unknown"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "unreachable"),
    ],
)
def test_response_of_another_program_is_not_healthy(listener: socket.socket, body: bytes, status: str) -> None:
    """A port that another program uses must not look healthy."""

    def respond() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65_536)
            connection.sendall(body)

    server = threading.Thread(target=respond)
    server.start()
    assert fetch(endpoint_of(listener), "live", 5)["status"] == status
    server.join()


def test_closed_port_exits_1(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed port is an ordinary failure, without a traceback."""
    port = endpoint_of(listener).port
    listener.close()
    monkeypatch.setenv("FLOWSTATE_HTTP_PORT", str(port))
    assert main(["health"]) == FAILED
