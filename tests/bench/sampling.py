"""Runs a module and samples which part of the work uses its CPU time. Needs nothing but the standard library.

SIGUSR2 starts the measurement; a second one ends it and writes seconds by part, as JSON. A sample counts with the CPU
time of the main thread since the last one, and belongs to the innermost function that PARTS names: a library counts
for its caller.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import CodeType, FrameType

FILE_VARIABLE, MODULE_VARIABLE = "BENCH_PROFILE_FILE", "BENCH_PROFILE_MODULE"
INTERVAL_S = 0.001  # of CPU time; the kernel rounds it up to its own tick, usually 4 ms

PARSING, RENDERING, ENCODING = "parsing and checking the data", "rendering subject, HTML, text", "JSON of the email"
OTHER = "event loop and tasks"
THREADS = "joining and hashing the request (on a thread)"
# Files, folders and, after a colon, functions; of several that fit the longest counts.
PARTS: Mapping[str, tuple[str, ...]] = {
    "claim: script call, decoding": ("worker/fetcher.py", "queue/decode.py", "queue/creation_times.py"),
    PARSING: ("mail/kinds/__init__.py",),
    "decision: send, skip or expire": ("mail/policy.py", "worker/handler.py:_decide"),
    RENDERING: ("mail/render.py",),
    ENCODING: ("delivery/resend_gateway.py:encode",),
    "request: grouping, compressing, storing": (
        *("sending/dispatcher.py", "sending/send_queue.py", "sending/batch.py", "sending/request_recorder.py"),
        *("sending/request_store.py", "sending/recent_requests.py", "delivery/resend_gateway.py:build_request"),
    ),
    "HTTP and the response": ("flowstate_daemon/delivery/", "site-packages/aiohttp/", "sending/batch_sender.py"),
    "completion: outcome, script call": ("worker/completer.py", "worker/results.py"),
    "log line and metrics": ("worker/completer.py:log", "base/metrics.py"),
}


def part_of(path: str, function: str) -> str | None:
    """The part to which a function belongs; None if its caller decides. Pure."""
    qualified = f"{path}:{function}"
    fitting = [
        (len(place), part)
        for part, places in PARTS.items()
        for place in places
        if qualified.endswith(f"/{place}") or path.endswith(f"/{place}") or (place[-1] == "/" and f"/{place}" in path)
    ]
    return max(fitting)[1] if fitting else None


class Sampler:
    """CPU time of this process by part, from `start` to `finish`."""

    def __init__(self) -> None:
        self._known: dict[CodeType, str | None] = {}
        self._parts: Counter[str] = Counter()
        self._started: tuple[float, float] | None = None  # of the process and of the main thread, s
        self._last_s = 0.0

    @property
    def running(self) -> bool:
        return self._started is not None

    def start(self) -> None:
        self._last_s = time.thread_time()
        self._started = time.process_time(), self._last_s
        signal.signal(signal.SIGPROF, self._sample)
        signal.setitimer(signal.ITIMER_PROF, INTERVAL_S, INTERVAL_S)

    def finish(self) -> dict[str, float]:
        """Seconds by part."""
        assert self._started is not None, "it was started"
        signal.setitimer(signal.ITIMER_PROF, 0)
        process_s, thread_s = self._started
        others_s = (time.process_time() - process_s) - (time.thread_time() - thread_s)
        return {**self._parts, THREADS: max(others_s, 0.0)}

    def _sample(self, _number: int, frame: FrameType | None) -> None:
        now_s = time.thread_time()
        part = None
        while frame is not None and part is None:
            part = self._part_of(frame.f_code)
            frame = frame.f_back
        self._parts[part or OTHER] += now_s - self._last_s
        self._last_s = now_s

    def _part_of(self, code: CodeType) -> str | None:
        if code not in self._known:
            self._known[code] = part_of(code.co_filename, code.co_name)
        return self._known[code]


def main() -> None:
    output, module = Path(os.environ[FILE_VARIABLE]), os.environ[MODULE_VARIABLE]
    sampler = Sampler()

    def toggle(_number: int, _frame: FrameType | None) -> None:
        if not sampler.running:
            sampler.start()
            return
        unfinished = output.with_suffix(".new")
        unfinished.write_text(json.dumps(sampler.finish()))
        unfinished.replace(output)

    signal.signal(signal.SIGUSR2, toggle)
    sys.argv[0] = module
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
