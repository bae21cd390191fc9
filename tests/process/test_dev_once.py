"""`dev --once`: the whole house on a machine that has nothing, every mail and every schedule, and out again."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from flowstate_daemon.mail.kinds import KINDS


async def once(folder: Path) -> dict[str, Any]:
    """One run, from its console script's module, and the document that it prints."""
    command = (sys.executable, "-m", "flowstate_daemon", "dev", "--once", "--json", "--folder", str(folder))
    environment = {"PATH": os.environ["PATH"], "FLOWSTATE_HTTP_PORT": "0"}
    child = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    assert child.returncode == 0
    output: dict[str, Any] = json.loads(out)
    return output


async def test_everything_due_is_sent_or_skipped_with_its_reason_and_again_when_run_again(tmp_path: Path) -> None:
    """One mail of each kind, each schedule for those who want it, no reason missing; a second run sends as much."""
    for _ in range(2):
        output = await once(tmp_path)
        assert {mail["kind"]: mail["state"] for mail in output["mails"]} == dict.fromkeys(KINDS, "completed")
        recipients: Counter[tuple[str, str]] = Counter()
        for result in output["schedules"]:
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
