"""The commands that `check` tries are those that the scripts use."""

from __future__ import annotations

import re

from flowstate_daemon.redis_client.permissions import SCRIPT_COMMANDS
from flowstate_daemon.redis_client.scripts import load_scripts

CALLED = re.compile(r'redis\.p?call\(\s*"([A-Z]+)"')
CHOSEN = re.compile(r'redis\.p?call\(\s*\w+ and "([A-Z]+)" or "([A-Z]+)"')
DISPENSABLE = {"INFO"}  # who may not ask for the server's run knows its memory by the mark alone


def test_each_command_of_the_scripts_is_tried() -> None:
    """The list contains every command that a script uses, and no other."""
    used: set[str] = set()
    for script in load_scripts().values():
        used.update(CALLED.findall(script.text))
        used.update(*CHOSEN.findall(script.text))
    assert {command.split()[0] for command in SCRIPT_COMMANDS} == used - DISPENSABLE
