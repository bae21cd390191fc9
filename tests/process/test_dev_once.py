"""`dev --once` starts a complete environment, sends every kind of email, runs every schedule, and exits."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from flowstate_daemon.mail.kinds import KINDS
from tests.support.schedule_settings import nothing_comes_due


async def run_once(folder: Path) -> dict[str, Any]:
    """Run the command, and return the document that it prints."""
    command = (sys.executable, "-m", "flowstate_daemon", "dev", "--once", "--json", "--folder", str(folder))
    environment = {"PATH": os.environ["PATH"], "FLOWSTATE_HTTP_PORT": "0", **nothing_comes_due()}
    child = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    assert child.returncode == 0
    document: dict[str, Any] = json.loads(out)
    return document


async def test_dev_once_sends_or_skips_every_due_email_in_each_run(tmp_path: Path) -> None:
    """Each kind is sent, each skipped email has a reason, and a second run sends the same emails again."""
    for _ in range(2):
        document = await run_once(tmp_path)
        assert {mail["kind"]: mail["state"] for mail in document["mails"]} == dict.fromkeys(KINDS, "completed")
        recipients: Counter[tuple[str, str]] = Counter()
        for result in document["schedules"]:
            recipients[result["kind"], result["state"]] += result["recipients"]
            assert bool(result["reason"]) == (result["state"] == "skipped")
        assert recipients == {
            ("task-reminder", "sent"): 8,
            ("task-reminder", "skipped"): 3,
            ("overdue-summary", "sent"): 6,
            ("overdue-summary", "skipped"): 4,
            ("focus-report", "sent"): 3,
            ("focus-report", "skipped"): 3,
        }
    assert len(list((tmp_path / "outbox").glob("*.eml"))) == 2 * (len(KINDS) + 8 + 6 + 3)
