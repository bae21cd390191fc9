"""Renders what it is told to, for `rendering_beside`. A checkout may be old: only names that all of them have."""

from __future__ import annotations

import json
import sys
import time

from flowstate_daemon.mail.kinds import parse_request
from tests.support.mail_samples import RENDERER

print("ready", flush=True)
for line in sys.stdin:
    kind, times, job = json.loads(line)
    data = json.dumps(job).encode()
    started = time.process_time()
    for _ in range(times):
        RENDERER.render(parse_request(kind, data), issued_ms=1_772_000_000_000)
    print((time.process_time() - started) / times * 1e6, flush=True)
