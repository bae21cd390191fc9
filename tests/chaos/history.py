"""What happened in a round, as plain data: what was produced, and what provider, ledger, queue and daemons show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

SETTLED_LEDGER = frozenset({"sent", "skipped", "expired", "failed"})


@dataclass(frozen=True, slots=True)
class Produced:
    """An email that the producer tried to add. Without a `job_id` the answer of Redis was lost or an error.

    `lost`: Redis has acknowledged the job and lost it in a failover; it may have been sent before, and no worker can
    send it afterwards.
    """

    to: str
    kind: str
    job_id: str | None
    lost: bool = False

    def lost_after(self, last_id: int) -> Produced:
        """The same after a failover to a Redis that knows the jobs up to this id."""
        is_lost = self.job_id is not None and int(self.job_id) > last_id
        return replace(self, lost=True) if is_lost else self

    @property
    def is_required(self) -> bool:
        return self.job_id is not None and not self.lost


@dataclass(frozen=True, slots=True)
class Accepted:
    """An email that the provider has accepted."""

    id: str
    to: str
    subject: str
    key: str | None
    at_ms: int


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A row of `flowstate_daemon.mails`; `mail` is the same for all attempts of one email."""

    mail: str
    job_id: str
    to: str
    kind: str
    attempt: int
    outcome: str
    provider_id: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class FailedJob:
    """A job in the `failed` set of the queue."""

    job_id: str
    to: str
    reason: str


@dataclass(frozen=True, slots=True)
class ScheduledRow:
    """A row of `flowstate_daemon.scheduled_mails`."""

    to: str
    kind: str
    state: str
    job_id: str
    reason: str | None = None
    recorded: bool = False  # a request that contained it is recorded


@dataclass(slots=True)
class Life:
    """One process of a daemon, from its start to its end: samples of what must not grow."""

    daemon: int
    rss_mb: list[float] = field(default_factory=list)
    fds: list[int] = field(default_factory=list)
    tasks: list[int] = field(default_factory=list)

    @staticmethod
    def growth(values: Sequence[float]) -> float:
        """The middle of the last quarter minus that of the second: the first quarter fills caches."""
        width = len(values) // 4
        return round(median(values[-width:]) - median(values[width : 2 * width]), 1) if width else 0.0


@dataclass(frozen=True, slots=True)
class History:
    """A whole round, after all faults are healed and nothing moves any more."""

    produced: Sequence[Produced]
    accepted: Sequence[Accepted]
    ledger: Sequence[LedgerRow]
    failed: Sequence[FailedJob]
    unsettled: Sequence[str] = ()  # job ids in wait, active, delayed and paused
    journal: int = 0
    taken_by_bull: Mapping[str, str] = field(default_factory=dict)  # recipient by job id
    expected: Sequence[tuple[str, str]] = ()  # address and kind of each scheduled email
    scheduled: Sequence[ScheduledRow] = ()
    lives: Sequence[Life] = ()
    exits: Sequence[int] = ()  # exit codes of daemons that ended by themselves
    not_ready: Sequence[int] = ()  # daemons that are not ready after everything has healed
    stops: Sequence[int | None] = ()  # exit codes after SIGTERM; None: it did not end in time
