"""The sampling profiler of the benchmark: which part a function belongs to, and that its figures add up."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import msgspec
import pytest

import flowstate_daemon
from flowstate_daemon.mail.kinds import parse_request
from tests.bench.protocol import KIND, jobs
from tests.bench.sampling import ENCODING, OTHER, PARSING, PARTS, RENDERING, THREADS, Sampler, part_of

PACKAGE = Path(flowstate_daemon.__file__).parent
PLACES = [place for places in PARTS.values() for place in places if not place.startswith("site-packages")]


@pytest.mark.parametrize("place", PLACES)
def test_every_place_exists(place: str) -> None:
    """A file or function that was renamed would count for its caller without anybody noticing."""
    path, _, function = place.removeprefix("flowstate_daemon/").partition(":")
    assert (PACKAGE / path).exists()
    if function:
        tree = ast.walk(ast.parse((PACKAGE / path).read_text()))
        names = {node.name for node in tree if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert function in names


@pytest.mark.parametrize(
    ("path", "function", "part"),
    [
        ("/x/flowstate_daemon/mail/render.py", "render", RENDERING),
        ("/x/flowstate_daemon/delivery/resend_gateway.py", "encode", ENCODING),
        ("/x/flowstate_daemon/delivery/resend_gateway.py", "send", "HTTP and the response"),
        ("/x/site-packages/aiohttp/client.py", "_request", "HTTP and the response"),
        ("/x/flowstate_daemon/worker/completer.py", "log", "log line and metrics"),
        ("/x/flowstate_daemon/worker/completer.py", "_write_batch", "completion: outcome, script call"),
        ("/x/flowstate_daemon/web/render.py", "render", None),
        ("/x/site-packages/jinja2/environment.py", "render", None),
    ],
)
def test_part_of_a_function(path: str, function: str, part: str | None) -> None:
    """The most specific place counts; a library belongs to no part, so that its caller decides."""
    assert part_of(path, function) == part


def test_samples_add_up_to_the_cpu_time() -> None:
    """CPU time counts for the part that used it, also in a library below it."""
    data = next(msgspec.json.encode(job) for job in jobs("noop", 1))
    sampler = Sampler()
    before_s = time.process_time()
    sampler.start()
    while time.process_time() - before_s < 0.3:
        for _ in range(100):
            parse_request(KIND, data)
    found = sampler.finish()
    used_s = time.process_time() - before_s
    assert found[PARSING] > 0.8 * used_s
    assert sum(found.values()) == pytest.approx(used_s, rel=0.1)
    assert set(found) <= {PARSING, OTHER, THREADS}
