"""What the measured cost of an email means for a number of people: a simulation of one day, second by second. Pure.

The formulas and the simulation are independent of each other; tests/unit/test_capacity_model.py compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

BATCH = 100  # emails in a request
DAY_S, HOUR_S = 86_400, 3_600
USABLE = 0.7  # of a core; above it queues grow at every hiccup


@dataclass(frozen=True, slots=True)
class Costs:
    """Measured: CPU in microseconds, sizes in bytes, for each email; `delete_rows_per_s` is one pruner's speed."""

    daemon_cpu_us: float
    redis_cpu_us: float
    postgres_cpu_us: float
    waiting_job_bytes: float
    ledger_row_bytes: float
    request_row_bytes: float
    scheduled_row_bytes: float
    delete_rows_per_s: float


@dataclass(frozen=True, slots=True)
class Load:
    """What people cause: emails a day, and how they are spread over the day."""

    people: int
    scheduled_each: float = 0.8  # a day: reminders, overdue summaries, a weekly report
    codes_each: float = 0.1  # a day: codes, invitations and other emails of the moment
    largest_zone: float = 0.4  # share of the people whose morning is at the same moment
    zones: int = 12  # in which the others live, an hour apart
    morning_s: int = HOUR_S  # within which the emails of a zone are to be sent

    @property
    def mails_a_day(self) -> float:
        return self.people * (self.scheduled_each + self.codes_each)

    @property
    def needed_rate(self) -> float:
        """Emails a second, so that the largest zone has its emails in time."""
        return self.people * self.scheduled_each * self.largest_zone / self.morning_s + self.codes_rate

    @property
    def codes_rate(self) -> float:
        return self.people * self.codes_each / DAY_S


@dataclass(frozen=True, slots=True)
class Day:
    """A simulated day: the longest time for a zone's emails, in seconds, and the most emails that waited."""

    morning_s: int
    most_waiting: int
    sent: int
    left: int


def limits(costs: Costs, *, daemons: int, requests_per_s: float) -> Mapping[str, float]:
    """Emails a second that each part can carry; the smallest is the wall. Redis and Postgres have a core each."""
    return {
        "provider": requests_per_s * BATCH,
        "daemons": daemons * USABLE * 1e6 / costs.daemon_cpu_us,
        "Redis": USABLE * 1e6 / costs.redis_cpu_us,
        "Postgres, one core": USABLE * 1e6 / costs.postgres_cpu_us,
    }


def wall(costs: Costs, *, daemons: int, requests_per_s: float) -> tuple[str, float]:
    """The part that limits, and its emails a second."""
    found = limits(costs, daemons=daemons, requests_per_s=requests_per_s)
    name = min(found, key=lambda part: found[part])
    return name, found[name]


def arrivals(load: Load) -> Mapping[int, float]:
    """Scheduled emails by the second of the day at which they are due: one moment for each zone."""
    others = load.people * load.scheduled_each * (1 - load.largest_zone) / load.zones
    at = {(6 + zone) * HOUR_S: others for zone in range(load.zones)}
    at[12 * HOUR_S] += load.people * load.scheduled_each * load.largest_zone
    return at


def simulate(load: Load, rate: float) -> Day:
    """One day at `rate` emails a second. Codes overtake, so they take their share of the rate first."""
    due = arrivals(load)
    waiting, codes, sent, most = 0.0, 0.0, 0.0, 0.0
    since, longest = 0, 0
    for second in range(DAY_S):
        codes += load.codes_rate
        if second in due:
            since = since if waiting else second
            waiting += due[second]
        most = max(most, waiting + codes)
        urgent = min(codes, rate)
        bulk = min(waiting, rate - urgent)
        codes, waiting, sent = codes - urgent, waiting - bulk, sent + urgent + bulk
        if since and waiting <= 0:
            longest, since = max(longest, second + 1 - since), 0
    if since:
        longest = max(longest, DAY_S - since)
    return Day(longest, round(most), round(sent), round(waiting + codes))


@dataclass(frozen=True, slots=True)
class Plan:
    """What a number of people needs."""

    load: Load
    requests_per_s: float
    daemons: int
    redis_share: float
    postgres_share: float
    redis_mb: float
    ledger_rows: float
    ledger_gb: float
    prune_s: float
    day: Day


def plan(costs: Costs, load: Load, retention_days: int = 365) -> Plan:
    """The daemons, shares of a core, memory and disk for this load, and the simulated day with them.

    `redis_mb` is for a backend that adds all scheduled emails at once; those of the daemon wait in Postgres.
    """
    rate = load.needed_rate
    daemons = max(1, -int(-rate * costs.daemon_cpu_us / 1e6 / USABLE // 1))
    requests_per_s = rate / BATCH
    day = simulate(load, rate)
    rows = load.mails_a_day * retention_days
    row_bytes = costs.ledger_row_bytes + costs.scheduled_row_bytes * load.scheduled_each / (
        load.scheduled_each + load.codes_each
    )
    return Plan(
        load=load,
        requests_per_s=requests_per_s,
        daemons=daemons,
        redis_share=rate * costs.redis_cpu_us / 1e6,
        postgres_share=rate * costs.postgres_cpu_us / 1e6,
        redis_mb=day.most_waiting * costs.waiting_job_bytes / 1e6,
        ledger_rows=rows,
        ledger_gb=(rows * row_bytes + load.mails_a_day * costs.request_row_bytes) / 1e9,
        prune_s=2 * load.mails_a_day / costs.delete_rows_per_s,
        day=day,
    )
