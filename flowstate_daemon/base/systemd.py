"""The systemd protocols sd_listen_fds(3) and sd_notify(3), without libsystemd.

The command line reads `SystemdEnvironment` from the environment; `daemon` sends through `SdNotifier`. Without systemd
both do nothing.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.base.redaction import escape_control_chars

log = structlog.get_logger()

LISTEN_FDS_START = 3
MAX_FDS = 16
MAX_PENDING_MESSAGES = 16  # datagrams kept while systemd does not read
MAX_STATUS_LENGTH = 400


@dataclass(frozen=True, slots=True)
class SystemdEnvironment:
    """The variables that systemd sets; empty without systemd. `journal` is `$JOURNAL_STREAM`."""

    notify_socket: str = ""
    watchdog_s: float = 0.0
    listen_fds: int = 0
    journal: str = ""

    @classmethod
    def from_environ(cls, environ: Mapping[str, str], pid: int) -> SystemdEnvironment:
        """The variables for process `pid`; those that a parent process received are ignored."""
        watchdog_us = _number(environ, "WATCHDOG_USEC")
        if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
            watchdog_us = 0
        listen_fds = _number(environ, "LISTEN_FDS") if environ.get("LISTEN_PID") == str(pid) else 0
        return cls(
            notify_socket=environ.get("NOTIFY_SOCKET", ""),
            watchdog_s=watchdog_us / 1e6,
            listen_fds=min(listen_fds, MAX_FDS),
            journal=environ.get("JOURNAL_STREAM", ""),
        )

    def sockets(self) -> list[socket.socket]:
        """The listening sockets passed by a socket unit. Raises ConfigError for any other kind of socket."""
        handed = [socket.socket(fileno=fd) for fd in range(LISTEN_FDS_START, LISTEN_FDS_START + self.listen_fds)]
        for listener in handed:
            listener.set_inheritable(False)
            listener.setblocking(False)
            if listener.type != socket.SOCK_STREAM or not listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                remedy = "the socket unit may have ListenStream= lines only, and Accept=no"
                raise ConfigError([f"LISTEN_FDS: descriptor {listener.fileno()} is no listening stream: {remedy}"])
        return handed


def _number(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name, "")
    return int(value) if value.isascii() and value.isdigit() else 0


class SdNotifier:
    """Sends datagrams to systemd without blocking: what cannot be sent now is sent with the next message."""

    def __init__(self, address: str) -> None:
        """`address` is `$NOTIFY_SOCKET`: a path, or `@name` in the abstract namespace; empty: no messages."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket: socket.socket | None = None
        self._unsent: deque[bytes] = deque(maxlen=MAX_PENDING_MESSAGES)
        self._complained = False

    def open(self) -> None:
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def send(self, *assignments: str) -> None:
        """Send `NAME=value` assignments as one message."""
        if self._socket is None:
            return
        self._unsent.append("\n".join(assignments).encode())
        try:
            while self._unsent:
                self._socket.sendto(self._unsent[0], self._address)
                self._unsent.popleft()
        except BlockingIOError:
            return
        except OSError as error:
            self._unsent.clear()
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            remedy = "NOTIFY_SOCKET must be reachable: is AF_UNIX allowed, and NotifyAccess=main set?"
            log.warning("sd_notify_failed", reason=error.strerror or str(error), remedy=remedy)
        self._complained = True


def status_line(text: str) -> str:
    """The assignment that shows `text` in `systemctl status`: one line, control characters escaped."""
    line = escape_control_chars(text)
    return f"STATUS={line if len(line) <= MAX_STATUS_LENGTH else line[: MAX_STATUS_LENGTH - 1] + '…'}"


def usec(name: str, seconds: float) -> str:
    """An assignment of a duration or of a monotonic instant, given in seconds."""
    return f"{name}={int(seconds * 1e6)}"
