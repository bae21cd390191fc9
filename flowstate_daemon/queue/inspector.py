"""Read access to the queue for metrics, web and command line. The worker does not use this module.

Every method runs one command where possible, because hosted Redis bills by the command. Results are snapshots.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from flowstate_daemon.base.redaction import REDACTED, redact_json
from flowstate_daemon.queue.audit import count_actions
from flowstate_daemon.queue.job import STATES, State, unix_ms
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys, is_valid_job_id
from flowstate_daemon.redis_client.scripts import Scripts
from flowstate_daemon.redis_client.server_info import ClientInfo, foreign_workers, has_name_prefix, list_clients

MAX_TIME_MS = 8_640_000_000_000_000  # the last time that JavaScript can represent
MAX_EXACT = 2**53  # the largest integer that JavaScript represents exactly
MAX_DEPTH = 100  # levels of nesting; job data of an email has three
PAGE_SIZE = 200  # jobs read in one script call, about a millisecond of server time
STATE_LOOKUP_ORDER = ("completed", "failed", "delayed", "active", "wait", "paused")
STATE_BY_NAME: dict[bytes, State] = {state.encode(): state for state in STATES}


@dataclass(frozen=True, slots=True)
class JobView:
    """One job. Times are Unix ms, None when absent; `state` is None for a job in no list.

    `data`, `options`, `progress` and `returnvalue` are parsed JSON, or the raw text when they are not valid JSON.
    `notes` are the problems found in the hash.
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
    extra_fields: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def added_ms(self) -> int | None:
        """When the job was added, Unix ms: producers also write other units. None if that is unknown."""
        return None if self.timestamp is None else unix_ms(self.timestamp) or None

    @property
    def recipient(self) -> str:
        """The address of the email, as the producer wrote it; "" when the data has none."""
        to = self.data.get("to") if isinstance(self.data, dict) else None
        return to if isinstance(to, str) else ""

    def to_dict(self, *, reveal: bool = False) -> dict[str, Any]:
        """The job as JSON types; `data` and unknown fields are redacted unless `reveal` is set."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        if not reveal:
            plain |= {"data": self.redacted_data(), "extra_fields": dict.fromkeys(self.extra_fields, REDACTED)}
        return plain | {"stacktrace": list(self.stacktrace), "notes": list(self.notes)}

    def redacted_data(self) -> Any:
        """`data` without one-time codes, passwords and tokens."""
        if not isinstance(self.data, dict):
            return f"{len(str(self.data))} characters, hidden because they are not the data of an email"
        return redact_json(self.data)


@dataclass(frozen=True, slots=True)
class JobLocation:
    """What the scripts return about a job besides its hash; `score` is its score in the zset of its state, if any."""

    state: State | None
    score: float | None
    locked: bool
    log_count: int


def build_job_view(job_id: str, pairs: Mapping[bytes, bytes], location: JobLocation) -> JobView:
    """Read the hash of a job of any producer. Never raises."""
    reader = _HashReader(pairs)
    options = reader.json("opts", default={})
    trace = reader.json("stacktrace", default=[])
    due_at = reader.due_time(location.score) if location.state == "delayed" else None
    return JobView(
        id=job_id,
        state=location.state,
        name=reader.text("name") or "",
        data=reader.json("data", default={}),
        options=options,
        timestamp=reader.number("timestamp"),
        delay_ms=reader.number("delay") or 0,
        due_at=due_at,
        priority=reader.number("priority") or 0,
        attempts=_max_attempts(options),
        attempts_made=reader.number("attemptsMade") or 0,
        processed_at=reader.number("processedOn"),
        finished_at=reader.number("finishedOn"),
        retried_at=reader.number("retriedOn"),
        stalled_count=reader.number("stalledCounter") or 0,
        failed_reason=reader.text("failedReason"),
        stacktrace=tuple(str(line) for line in trace) if isinstance(trace, list) else (str(trace),),
        progress=reader.json("progress", default=None),
        returnvalue=reader.json("returnvalue", default=None),
        debounce_id=reader.text("deid"),
        locked=location.locked,
        log_count=location.log_count,
        extra_fields=reader.rest(),
        notes=tuple(reader.notes),
    )


class _HashReader:
    """Reads and removes the fields of one hash; `notes` collects invalid fields, `rest` returns those not read."""

    def __init__(self, pairs: Mapping[bytes, bytes]) -> None:
        self._fields = {decode_text(name): decode_text(value) for name, value in pairs.items()}
        self.notes: list[str] = []
        if not self._fields:
            self.notes.append("the job has no hash")

    def text(self, name: str) -> str | None:
        return self._fields.pop(name, None)

    def number(self, name: str) -> int | None:
        text = self._fields.pop(name, None)
        if text is None:
            return None
        try:
            number = int(float(text))
        except (ValueError, OverflowError):
            self.notes.append(f"{name} is not a number")
            return None
        if abs(number) > MAX_EXACT:
            self.notes.append(f"{name} is out of range")
            return None
        return number

    def due_time(self, score: float | None) -> int | None:
        """When a delayed job is due, Unix ms; None when it can never be due."""
        if score is None:
            return None
        if not math.isfinite(score) or abs(score) / 4096 > MAX_TIME_MS:
            self.notes.append("it is due at no possible time: its delay is infinite or out of range")
            return None
        return math.ceil(score / 4096)

    def json(self, name: str, *, default: Any) -> Any:
        text = self._fields.pop(name, None)
        if text is None:
            return default
        try:
            return _printable(json.loads(text, parse_constant=_reject_constant, parse_float=_parse_finite), MAX_DEPTH)
        except (ValueError, RecursionError):
            self.notes.append(f"{name} is not valid JSON")
            return text

    def rest(self) -> dict[str, str]:
        return dict(self._fields)


def _max_attempts(options: Any) -> int:
    """The maximum number of attempts, as the worker reads it."""
    attempts = options.get("attempts") if isinstance(options, dict) else None
    if isinstance(attempts, bool) or not isinstance(attempts, int | float) or attempts <= 0:
        return 1
    return math.ceil(min(attempts, MAX_EXACT))


def decode_text(text: bytes) -> str:
    """The bytes as printable text; invalid UTF-8 is replaced."""
    return text.decode(errors="replace")


def _reject_constant(constant: str) -> Any:
    raise ValueError(constant)


def _parse_finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _reject_constant(text)


def _printable(value: Any, depth: int) -> Any:
    """A copy that JSON and UTF-8 can encode: no halves of surrogate pairs, no integers over 64 bits."""
    if depth < 0:
        raise ValueError("nested too deeply")
    if isinstance(value, int) and abs(value) > MAX_EXACT:
        return _parse_finite(str(value))
    if isinstance(value, str):
        return value.encode(errors="replace").decode()
    if isinstance(value, list):
        return [_printable(part, depth - 1) for part in value]
    if isinstance(value, dict):
        return {_printable(name, depth): _printable(part, depth - 1) for name, part in value.items()}
    return value


@dataclass(frozen=True, slots=True)
class Counts:
    """The number of jobs in each state; each job is counted once."""

    wait: int
    active: int
    delayed: int
    paused: int
    completed: int
    failed: int


@dataclass(frozen=True, slots=True)
class Snapshot(Counts):
    """The queue at one point in time. Times are Unix ms, None when there is no such job.

    `oldest_waiting_ms` is the time when the oldest waiting job was added. It is not exact while `lifo` or stalled jobs
    wait, which are out of order. For a delayed job it is also the time when it was added.
    `journal` is the number of entries in the journal. `last_added_ms` is when a producer other than the schedules added
    its newest job; None if no job was ever added, or none was claimed since an older version.
    """

    is_paused: bool
    oldest_waiting_ms: int | None
    next_due_ms: int | None
    journal: int
    last_added_ms: int | None


@dataclass(frozen=True, slots=True)
class Workers:
    """The connected worker processes, Bull's and daemons; `note` says why they cannot be listed."""

    clients: tuple[ClientInfo, ...]
    note: str | None = None

    def __iter__(self) -> Iterator[ClientInfo]:
        return iter(self.clients)

    def __len__(self) -> int:
        return len(self.clients)


class Inspector:
    """Reads one queue."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._keys = keys
        self._scripts = Scripts(connection)

    async def snapshot(self) -> Snapshot:
        """All values that the metrics need."""
        names = ("wait", "active", "delayed", "paused", "completed", "failed", "meta-paused", "priority")
        keys = [*(self._keys(name) for name in names), self._keys.own("journal")]
        keys += [self._keys("id"), self._keys.own("last-added")]
        reply = await self._scripts.run("snapshot", keys, [self._keys.base])
        wait, active, delayed, paused, completed, failed, is_paused, oldest, due, journal, added = reply
        return Snapshot(
            *(wait, active, delayed, paused, completed, failed, bool(is_paused)),
            *(_instant(oldest), _instant(due), journal, _instant(added)),
        )

    async def operator_actions(self) -> dict[str, int]:
        """How many actions operators have done on this queue, by name."""
        return await count_actions(self._connection, self._keys)

    async def counts(self) -> Counts:
        """The number of jobs in each state."""
        return await self.snapshot()

    async def is_paused(self) -> bool:
        return bool(await self._connection.execute("EXISTS", self._keys("meta-paused")))

    async def state(self, job_id: str) -> State | None:
        """The state of a job; None when there is no such job, or it is in no state (in Bull: stuck)."""
        state = await self._scripts.run("state", self._state_keys(), [job_id])
        return None if state is None else STATE_BY_NAME[state]

    async def job(self, job_id: str) -> JobView | None:
        """One job with all its fields; None when there is no such job."""
        if not is_valid_job_id(job_id):
            return None
        job_keys = [self._keys.job(job_id), self._keys.lock(job_id), self._keys.logs(job_id)]
        state, *rest = await self._scripts.run("get_job", [*self._state_keys(), *job_keys], [job_id])
        if not state and not rest[-1]:
            return None
        return _view(job_id, STATE_BY_NAME.get(state), rest)

    async def jobs(self, state: State, start: int = 0, stop: int = -1, *, newest_first: bool = True) -> list[JobView]:
        """The jobs of a state from position `start` to `stop`, both included; -1 is the last."""
        found: list[JobView] = []
        first = start
        while stop < 0 or first <= stop:
            last = first + PAGE_SIZE - 1 if stop < 0 else min(first + PAGE_SIZE - 1, stop)
            args = (self._keys.base, first, last, int(newest_first))
            page = await self._scripts.run("list_jobs", [self._keys(state)], args)
            found.extend(read_job_row(state, row) for row in page)
            if len(page) < last - first + 1:
                break
            first = last + 1
        return found

    async def logs(self, job_id: str, start: int = 0, stop: int = -1) -> list[str]:
        """The rows of a job's log, oldest first."""
        return [
            decode_text(row) for row in await self._connection.execute("LRANGE", self._keys.logs(job_id), start, stop)
        ]

    async def workers(self) -> Workers:
        """The workers of this queue, as Bull's `getWorkers()` counts them."""
        clients = await list_clients(self._connection)
        if clients is None:
            return Workers((), "this Redis does not allow CLIENT LIST: the workers cannot be listed")
        return Workers(tuple(client for client in clients if has_name_prefix(client.name, self._keys.client_name)))

    async def foreign_workers(self) -> Workers:
        """The workers that are not daemons: Bull's, in node."""
        workers = await self.workers()
        return Workers(foreign_workers(workers, self._keys.client_name), workers.note)

    def _state_keys(self) -> list[str]:
        return [self._keys(name) for name in STATE_LOOKUP_ORDER]


def _instant(at_ms: int) -> int | None:
    return None if at_ms < 0 else at_ms


def read_job_row(state: State, row: Sequence[Any]) -> JobView:
    """One job as the scripts `list_jobs` and `search_jobs` return it."""
    job_id, *rest = row
    return _view(decode_text(job_id), state, rest)


def _view(job_id: str, state: State | None, rest: Sequence[Any]) -> JobView:
    score, locked, rows, flat = rest
    location = JobLocation(state, float(score) if score else None, bool(locked), rows)
    return build_job_view(job_id, dict(zip(flat[::2], flat[1::2], strict=True)), location)
