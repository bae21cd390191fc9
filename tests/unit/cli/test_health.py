"""The command `health` without a daemon: where it asks, what it makes of other answers, and how little it imports."""

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
RARE = "import sys; from flowstate_daemon.__main__ import main; sys.argv[1:] = ['health', '--timeout', '0.1']\n"


def test_defaults_are_those_of_the_settings() -> None:
    """The command does not import the settings, so a test holds the two together."""
    assert {key: value for (_section, key), value in DEFAULTS.items()} == HttpSettings().model_dump(
        include={"enabled", "host", "port"}
    )


def test_a_health_check_imports_next_to_nothing() -> None:
    """It runs every few seconds beside a daemon at work: none of the libraries of the house is loaded."""
    script = f"{RARE}try:\n    main()\nexcept SystemExit:\n    print(*sys.modules)"
    environment = {"FLOWSTATE_HTTP_PORT": "0"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert {name.partition(".")[0] for name in done.stdout.split()} & HEAVY == set()


def test_it_asks_where_the_daemon_listens(tmp_path: Path) -> None:
    """File and environment count as for the daemon; what other commands would complain about does not matter here."""
    file = tmp_path / "settings.toml"
    file.write_text('[http]\nhost = "192.0.2.1"\nport = 9000\n[queue]\nconcurency = 3\n')
    port = tmp_path / "port"
    port.write_text("9001\n")
    assert find_endpoint({}, file) == HealthEndpoint("192.0.2.1", 9000)
    assert find_endpoint({"FLOWSTATE_HTTP_PORT_FILE": str(port)}, file) == HealthEndpoint("192.0.2.1", 9001)
    assert find_endpoint({"FLOWSTATE_HTTP_PORT": "9002", "FLOWSTATE_NO_SUCH": "1"}, file) == HealthEndpoint(
        "192.0.2.1", 9002
    )


@pytest.mark.parametrize(("listens", "asked"), [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("mail", "mail")])
def test_who_listens_everywhere_is_asked_nearby(listens: str, asked: str) -> None:
    """The address of all addresses is none to connect to."""
    assert find_endpoint({"FLOWSTATE_HTTP_HOST": listens}, None).host == asked


@pytest.mark.parametrize("environ", [{"FLOWSTATE_HTTP_ENABLED": "No"}, {"FLOWSTATE_HTTP_PORT": "0"}])
def test_a_daemon_without_a_known_port_cannot_be_asked(environ: dict[str, str]) -> None:
    """The reason carries the remedy."""
    answer = fetch(find_endpoint(environ, None), "live", 0.1)
    assert answer["status"] == "unknown"
    assert "FLOWSTATE_HTTP_" in answer["reasons"][0]


@pytest.mark.parametrize("port", ["http", "-1", "65536", "1.5", ""])
def test_a_port_that_is_none_is_wrong_configuration(port: str, tmp_path: Path) -> None:
    """As for the daemon itself."""
    file = tmp_path / "port"
    file.write_text(port)
    with pytest.raises(ConfigError, match="FLOWSTATE_HTTP_PORT_FILE: no port"):
        find_endpoint({"FLOWSTATE_HTTP_PORT_FILE": str(file)}, None)


def test_a_file_that_cannot_be_read_exits_78(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """To ask the default port instead would be an answer about another daemon."""
    monkeypatch.setenv("FLOWSTATE_CONFIG", str(tmp_path / "nowhere.toml"))
    assert main(["health"]) == CONFIG


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port on which something listens that is no daemon."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


def place_at(server: socket.socket) -> HealthEndpoint:
    return HealthEndpoint("127.0.0.1", server.getsockname()[1])


def test_silence_is_unreachable_within_the_timeout(listener: socket.socket) -> None:
    """The kernel accepts for a process that is frozen; nobody answers."""
    answer = fetch(place_at(listener), "live", 0.2)
    assert answer["status"] == "unreachable"
    assert "timed out" in answer["reasons"][0]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", "unknown"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 18\r\n\r\n{"status":"alive"}', "unknown"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xff", "unknown"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "unreachable"),
    ],
)
def test_another_program_is_no_daemon(listener: socket.socket, body: bytes, status: str) -> None:
    """A port that somebody else has taken must not look healthy."""

    def answer() -> None:
        line, _ = listener.accept()
        with line:
            line.recv(65_536)
            line.sendall(body)

    server = threading.Thread(target=answer)
    server.start()
    assert fetch(place_at(listener), "live", 5)["status"] == status
    server.join()


def test_nobody_there_exits_1(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed port is said in a sentence."""
    port = place_at(listener).port
    listener.close()
    monkeypatch.setenv("FLOWSTATE_HTTP_PORT", str(port))
    assert main(["health"]) == FAILED
