"""A job as a person looks at it: every field of its hash, read without trusting one of them. Pure.

`Inspector` makes these for web and command line; the engine has `Job`. What is wrong with a field stands in
`notes`, the field itself stays visible as text. One-time codes and tokens are masked by `redacted_data`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from flowstate_daemon.queue.job import State

MASK = "••••••"
DEEPEST = 100  # levels of nesting; a mail has three
SECRET_NAME = re.compile(
    r"otp|code|pass|secret|token|api_?key|authorization|cookie|credential|(^|_)pin$", re.IGNORECASE
)
SECRET_PARAMETER = re.compile(r"([?&;#](?:\w*(?:otp|code|pass|secret|token|key|sig)\w*)=)[^&;#\s\"']+", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class JobView:
    """One job. Instants are Unix ms, None where the hash says nothing; `state` is None for a job in no list.

    `data`, `options`, `progress` and `returnvalue` are parsed JSON, or the raw text where they are not JSON.
    """

    id: str
    state: State | None
    name: str
    data: Any
    options: Any
    timestamp: int | None
    delay_ms: int
    due_at: int | None
    priority: int
    attempts: int
    attempts_made: int
    processed_at: int | None
    finished_at: int | None
    retried_at: int | None
    stalled_count: int
    failed_reason: str | None
    stacktrace: tuple[str, ...]
    progress: Any
    returnvalue: Any
    debounce_id: str | None
    locked: bool
    log_count: int
    others: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def document(self, *, reveal: bool = False) -> dict[str, Any]:
        """The job as JSON types; `data` and unknown fields are shown unmasked only on demand."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        if not reveal:
            plain |= {"data": self.redacted_data(), "others": dict.fromkeys(self.others, MASK)}
        return plain | {"stacktrace": list(self.stacktrace), "notes": list(self.notes)}

    def redacted_data(self) -> Any:
        """`data` without one-time codes, passwords and tokens: what may be shown to anybody."""
        if not isinstance(self.data, dict):
            return f"{len(str(self.data))} characters, hidden because they are not a mail's data"
        return redact(self.data)


def redact(value: Any, *, secret: bool = False) -> Any:
    """A copy of parsed JSON with everything masked that is named like a secret, however deep it lies."""
    if isinstance(value, dict):
        return {name: redact(part, secret=secret or bool(SECRET_NAME.search(name))) for name, part in value.items()}
    if isinstance(value, list):
        return [redact(part, secret=secret) for part in value]
    if secret and value not in (None, "", True, False):
        return MASK
    return SECRET_PARAMETER.sub(rf"\g<1>{MASK}", value) if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Found:
    """What the scripts return about a job besides its hash; `score` is that of the zset it is in, if any."""

    state: State | None
    score: float | None
    locked: bool
    log_count: int


def view_job(job_id: str, pairs: Mapping[bytes, bytes], found: Found) -> JobView:
    """Read a hash that anybody may have written. Never raises."""
    hash_ = _Hash(pairs)
    options = hash_.json("opts", default={})
    attempts = options.get("attempts") if isinstance(options, dict) else None
    trace = hash_.json("stacktrace", default=[])
    due = found.state == "delayed" and found.score is not None
    return JobView(
        id=job_id,
        state=found.state,
        name=hash_.text("name") or "",
        data=hash_.json("data", default={}),
        options=options,
        timestamp=hash_.number("timestamp"),
        delay_ms=hash_.number("delay") or 0,
        due_at=math.ceil((found.score or 0) / 4096) if due else None,
        priority=hash_.number("priority") or 0,
        attempts=attempts if isinstance(attempts, int) and attempts > 0 else 1,
        attempts_made=hash_.number("attemptsMade") or 0,
        processed_at=hash_.number("processedOn"),
        finished_at=hash_.number("finishedOn"),
        retried_at=hash_.number("retriedOn"),
        stalled_count=hash_.number("stalledCounter") or 0,
        failed_reason=hash_.text("failedReason"),
        stacktrace=tuple(str(line) for line in trace) if isinstance(trace, list) else (str(trace),),
        progress=hash_.json("progress", default=None),
        returnvalue=hash_.json("returnvalue", default=None),
        debounce_id=hash_.text("deid"),
        locked=found.locked,
        log_count=found.log_count,
        others=hash_.rest(),
        notes=tuple(hash_.notes),
    )


class _Hash:
    """The fields of one hash: taken out one by one, what is wrong is noted, what nobody took is the rest."""

    def __init__(self, pairs: Mapping[bytes, bytes]) -> None:
        self._fields = {readable(name): readable(value) for name, value in pairs.items()}
        self.notes: list[str] = [] if self._fields else ["there is no hash under this id"]

    def text(self, name: str) -> str | None:
        return self._fields.pop(name, None)

    def number(self, name: str) -> int | None:
        text = self._fields.pop(name, None)
        if text is None:
            return None
        try:
            return int(float(text))
        except (ValueError, OverflowError):
            self.notes.append(f"{name} is not a number")
            return None

    def json(self, name: str, *, default: Any) -> Any:
        text = self._fields.pop(name, None)
        if text is None:
            return default
        try:
            return _printable(json.loads(text, parse_constant=_refuse, parse_float=_finite), DEEPEST)
        except (ValueError, RecursionError):
            self.notes.append(f"{name} is not valid JSON")
            return text

    def rest(self) -> dict[str, str]:
        return dict(self._fields)


def readable(text: bytes) -> str:
    """Text that can be printed and sent, whatever the bytes are."""
    return text.decode(errors="replace")


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse(text)


def _printable(value: Any, depth: int) -> Any:
    """JSON from JavaScript may hold halves of surrogate pairs, which no UTF-8 encoder accepts."""
    if depth < 0:
        raise ValueError("nested too deeply")
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, list):
        return [_printable(part, depth - 1) for part in value]
    if isinstance(value, dict):
        return {_printable(name, depth): _printable(part, depth - 1) for name, part in value.items()}
    return value
