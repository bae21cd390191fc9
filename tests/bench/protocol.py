"""What every child process of the benchmark has in common: its options, its jobs, and what it prints.

    <command> fill   --redis URL --jobs N --mode M          adds N jobs; prints {"seconds"}
    <command> urgent --redis URL --jobs N --interval S      adds N codes one at a time; prints {"adds_ms": [...]}
    <command> work   --redis URL --jobs N --mode M …        works; prints "first" at the first job, then the result

A worker stops after N jobs of its mode, or at the deadline (seconds after its first job), and reports what it has done.
Modes: `noop`; `code`, which counts codes only; `hold`, which never ends; `single` and `batch`, which send emails. The
node peers implement the same in `node_peers.mjs`. Standard library only: every peer's environment imports it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KIND = "task-reminder"
QUEUE = "email"


def parse_options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=("fill", "urgent", "work"))
    parser.add_argument("--redis", required=True)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--mode", default="noop")
    parser.add_argument("--concurrency", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=60.0)
    parser.add_argument("--interval", type=float, default=0.05)
    parser.add_argument("--provider", default="")
    parser.add_argument("--priorities", action="store_true")
    return parser.parse_args(arguments)


def jobs(mode: str, count: int) -> Iterator[dict[str, Any]]:
    """The jobs of a backlog: the data of a task reminder, whatever the handler does with it."""
    for number in range(count):
        yield {
            "mode": mode,
            "type": KIND,
            "to": f"person{number}@mail.dev",
            "context": {
                "userName": f"Person {number}",
                "taskTitle": f"Write down what task {number} is about",
                "projectName": "Personal",
                "priority": 3,
                "estimatedTime": 30,
                "taskUrl": f"https://flowstate.dev/tasks/{number}",
                "settingsUrl": "https://flowstate.dev/settings/notifications",
            },
        }


def code(number: int) -> dict[str, Any]:
    """A job that must not wait; it carries the time at which it was added, Unix s."""
    context = {"otpCode": f"{number:06}"}
    return {"mode": "code", "type": "otp", "to": f"code{number}@mail.dev", "context": context, "at": time.time()}


@dataclass
class Recorder:
    """Counts the jobs of a worker, and ends the process with its result when it is done. Safe in threads."""

    mode: str
    wanted: int
    deadline_s: float
    started: float = 0.0
    cpu_s: float = 0.0
    done: int = 0
    last: float = 0.0
    bulk: int = 0
    bulk_last: float = 0.0
    waits_ms: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def begin(self, job: dict[str, Any]) -> None:
        """A handler has started."""
        if "at" in job:
            self.waits_ms.append((time.time() - job["at"]) * 1000)
        if not self.started:
            with self._lock:
                if not self.started:
                    self.cpu_s, self.started = cpu_s(), time.time()
                    watchdog = threading.Timer(self.deadline_s, self.finish)
                    watchdog.daemon = True
                    watchdog.start()
                    print(json.dumps({"first": self.started}), flush=True)

    def end(self, job: dict[str, Any]) -> None:
        """A handler has ended."""
        with self._lock:
            self.done += 1
            self.last = time.time()
            if "at" not in job:
                self.bulk, self.bulk_last = self.bulk + 1, self.last
            counted = len(self.waits_ms) if self.mode == "code" else self.done
        if counted >= self.wanted:
            self.finish()

    def finish(self) -> None:
        """Print the result and end the process, without waiting for the peer's own shutdown."""
        seconds = max(self.last - self.started, 1e-6) if self.done else 0.0
        result = {
            "jobs": self.done,
            "seconds": round(seconds, 4),
            "bulk": self.bulk,  # without the codes, which may go on when the backlog is drained
            "bulk_seconds": round(max(self.bulk_last - self.started, 1e-6), 4) if self.bulk else 0.0,
            "cpu_s": round(cpu_s() - self.cpu_s, 4),
            "rss_mb": rss_mb(),
            "waits_ms": [round(wait, 2) for wait in self.waits_ms],
        }
        print(json.dumps(result), flush=True)
        os._exit(0)


def cpu_s() -> float:
    """CPU time of this process in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def rss_mb() -> float:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 1024 / 1024, 1)


def report(result: dict[str, Any]) -> None:
    """Print a result as the last line."""
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
