"""Jobs with dirt anywhere: generated from the schemas of all kinds, as producers with faults might write them.

`hostile_jobs(count, number)` returns the same jobs for the same number.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.samples import all_samples

EXAMPLES = 500  # drawn by hypothesis for each number; `hostile_jobs` combines them into as many jobs as are wanted
SAMPLES = {sample.kind: sample.with_frontend("https://flowstate.example").context for sample in all_samples()}

texts = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(categories=["Cc", "Cf", "Co", "Zl", "Zp", "Mn"]), min_size=1, max_size=8),
    st.sampled_from([
        "", " ", "\x00", "\r\nBcc: eve@example.org", "\x1b[31mred", "</td><script>evil()</script>", "{{ 7*7 }}",
        "[[ x ]]", "{% raw %}", "javascript:alert(1)", "\u202egnp.", "e" + "\u0301" * 500, "👩\u200d👧" * 50,
        "x" * 70_000, "null", "NaN", "9" * 400, "2026-02-30", "a@b", "a@example.org,b@example.org",
        "ä" * 64 + "@example.org", "%00",
    ]),
)  # fmt: skip
scalars = st.one_of(
    texts, st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from([2**53 + 1, -1, 10**300, 1e308, -0.0])
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=6,
)
# What is no value at all: half a surrogate pair, text that is not JSON.
raw_values = st.sampled_from(
    ['"\\ud83d"', '"\\udc00\\ud83d"', '{"a":"\\ud800"}', "{", "nul", "[1,", "1e999", '"\x01"', ""]
)


@dataclass(frozen=True, slots=True)
class HostileJob:
    """A job; `data`, `opts` and `fields` are written to its hash as they are, and may not be valid."""

    job_id: str
    name: str
    data: str
    opts: str
    fields: dict[str, str]


def _draw(strategy: st.SearchStrategy[Any], number: int) -> list[Any]:
    drawn: list[Any] = []

    @seed(number)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def collect(value: Any) -> None:
        drawn.append(value)

    collect()
    return drawn


def hostile_jobs(count: int, number: int) -> Iterator[HostileJob]:
    """`count` jobs: valid ones of every kind in which one to three places are dirty."""
    dirt, raw, words = _draw(values, number), _draw(raw_values, number), _draw(texts, number)
    random = Random(number)
    for job_number in range(count):
        kind = random.choice(sorted(KINDS))
        context = dict(SAMPLES[kind])
        job: dict[str, Any] = {"type": kind, "to": f"person{job_number}@example.org", "context": context}
        opts: dict[str, Any] = {"attempts": random.choice([1, 2]), "backoff": {"type": "fixed", "delay": 5}}
        fields = {"timestamp": "1795000000000", "delay": "0", "priority": "0", "name": kind}
        raw_text = _text(random.choice(raw))
        known = [field.encode_name for field in msgspec.structs.fields(KINDS[kind].context)]
        places: list[Callable[[], object]] = [
            lambda c=context, k=known: c.update({random.choice(k): random.choice(dirt)}),  # type: ignore[misc]
            lambda c=context, k=known: c.pop(random.choice(k), None),  # type: ignore[misc]
            lambda c=context: c.update({random.choice(words): random.choice(dirt)}),  # type: ignore[misc]
            lambda j=job: j.update({random.choice(["to", "type", "context", "x"]): random.choice(dirt)}),  # type: ignore[misc]
            lambda o=opts: o.update({random.choice(OPTIONS): random.choice(dirt)}),  # type: ignore[misc]
            lambda f=fields: f.update({random.choice(FIELDS): _text(random.choice(words))}),  # type: ignore[misc]
        ]
        for place in random.sample(places, random.choice([1, 1, 2, 3])):
            place()
        opts["attempts"] = _few(opts["attempts"])
        data, options = _json(job), _json(opts)
        if random.random() < 0.1:
            data = data.replace(f'"{job.get("to")}"', raw_text, 1) if random.random() < 0.5 else raw_text
        if random.random() < 0.03:
            options = raw_text
        name = fields.pop("name")
        job_id = f"{random.choice(words)[:30]}{job_number}" if random.random() < 0.2 else f"h{job_number}"
        yield HostileJob(_text(job_id), name, data, options, fields)


# Without `repeat` and `delay`, which by right make jobs that have not ended after the test.
OPTIONS = (
    "attempts", "backoff", "removeOnComplete", "removeOnFail", "priority", "timeout", "lifo", "stackTraceLimit", "x",
)  # fmt: skip
FIELDS = (
    "timestamp", "attemptsMade", "priority", "stacktrace", "name", "failedReason", "processedOn", "deid", "requests",
)  # fmt: skip


def _few(attempts: Any) -> Any:
    """Any dirt, but no number of attempts that is not used up within the test: it is right to make them all."""
    return attempts % 4 if isinstance(attempts, int | float) and attempts > 3 else attempts


def _json(value: Any) -> str:
    return _text(json.dumps(value))


def _text(text: str) -> str:
    """Text that UTF-8 can encode, for a client that writes bytes."""
    return text.encode("utf-8", "replace").decode()
