"""Runs flowstate-daemon's commands in forks of one process that has read the whole house already: a tenth of a second
each instead of one. `flowstate-daemon` beside it is the client; arguments, environment, folder and files are its own.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import sys
from importlib import import_module

from flowstate_daemon.cli.main import COMMANDS, main
from flowstate_daemon.dev.parent_death import set_parent_death_signal

MAX = 262_144


def obey(connection: socket.socket) -> int:
    """One command in this process, as if it had been started by the client, which passes SIGTERM on."""
    set_parent_death_signal(signal.SIGKILL, os.getppid())
    message, files, _, _ = socket.recv_fds(connection, MAX, 3)
    request = json.loads(message)
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    connection.sendall(f"{os.getpid()}\n".encode())
    sys.argv = ["flowstate-daemon", *request["words"]]
    code = main()
    sys.stdout.flush()
    return code


def serve(path: str) -> None:
    for module in set(COMMANDS.values()):
        import_module(f"flowstate_daemon.cli.{module}")
    gc.collect()
    gc.freeze()  # forks share what nobody touches
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: they tell their end themselves
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(path)
        door.listen()
        while True:
            connection, _ = door.accept()
            if os.fork() == 0:
                code = 70
                try:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    code = obey(connection)
                except SystemExit as leaving:
                    code = leaving.code if isinstance(leaving.code, int) else 1
                finally:
                    connection.sendall(bytes([code]))
                    os._exit(code)
            connection.close()


serve(sys.argv[1])
