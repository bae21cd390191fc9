"""What the report says of each figure: its heading, unit, explanation, whether more is better, and the goals."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass

from tests.bench.peers import BY_NAME, US
from tests.bench.results import Results


@dataclass(frozen=True, slots=True)
class Figure:
    """A column of a table; those with a `chart` also get a picture with that title."""

    name: str
    heading: str
    more_is_better: bool = False
    chart: str = ""
    logarithmic: bool = False


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report: one step, or all steps whose name begins with `step`."""

    step: str
    heading: str
    text: str
    figures: tuple[Figure, ...]


RATE = Figure("rate", "jobs/s", more_is_better=True, chart="no-op jobs per second")
SECTIONS = (
    Section(
        "drain",
        "Draining a backlog of no-op jobs",
        "A worker with a handler that does nothing drains a backlog. For peers the time runs from the first to the "
        "last call of the handler, for this daemon until the last job is completed in Redis. Commands are those that "
        "Redis counts, the ones inside scripts included; bytes are those on the network, both ways.",
        (
            RATE,
            Figure("commands_per_job", "Redis commands per job"),
            Figure("bytes_per_job", "network bytes per job"),
            Figure("cpu_us", "worker CPU, µs per job", chart="CPU of the worker, µs per job"),
            Figure("redis_cpu_us", "Redis CPU, µs per job"),
            Figure("memory_bytes", "Redis memory, bytes per waiting job"),
            Figure("rss_mb", "RSS, MB"),
        ),
    ),
    Section(
        "scripts",
        "The scripts alone",
        "One pipelined client sends the same claim and complete calls, prepared in advance, for the same jobs: "
        "the most that Redis can do with these scripts.",
        (Figure("rate", "jobs/s", more_is_better=True),),
    ),
    Section(
        "mails-batch",
        "Real emails, up to a hundred in one request",
        "Handlers parse, render and send the email with the daemon's own code for kinds and templates; for peers, they "
        "also group the emails that are handled at the same time. The provider is a local fake without a limit. "
        "npm bull and bullmq are left out, because the handlers are Python code, and so is rq, which runs one job at a "
        "time.",
        (
            Figure("rate", "emails/s", more_is_better=True, chart="emails per second, in batches"),
            Figure("cpu_us", "worker CPU, µs per email"),
            Figure("twice", "emails sent twice"),
        ),
    ),
    Section(
        "mails-single",
        "Real emails, one request each, without a rate limit",
        "This is how queue libraries are usually used. This daemon always sends batches: see above.",
        (
            Figure("rate", "emails/s", more_is_better=True),
            Figure("cpu_us", "worker CPU, µs per email"),
            Figure("twice", "emails sent twice"),
        ),
    ),
    Section(
        "mails-limited",
        "Real emails under a limit of 10 requests per second",
        "Resend's limit for an account. Peers send one request per email, as is usual; a peer with batches would be "
        "limited in the same way as the daemon. The fake provider counts in windows of one second, so a short run can "
        "exceed ten requests a second on average.",
        (
            Figure("rate", "emails/s", more_is_better=True, chart="emails per second, 10 requests/s", logarithmic=True),
            Figure("twice", "emails sent twice"),
        ),
    ),
    Section(
        "latency",
        "Latency at low load",
        "Codes are added one at a time to an empty queue by another process: from adding a job to the start of its "
        "handler.",
        (
            Figure("p50_ms", "p50, ms", chart="from adding to handling, p50, ms", logarithmic=True),
            Figure("p99_ms", "p99, ms"),
        ),
    ),
    Section(
        "backlog-",
        "With a backlog",
        "Adding urgent jobs to the waiting ones is measured first, without a worker. Then a worker processes the "
        "backlog for a limited time, and 40 urgent jobs are added, ten a second: how long these wait until their "
        "handler starts; their p99 is close to the maximum. Peers without priorities process them after all earlier "
        "jobs. Once the backlog is empty, an urgent job waits no longer than at low load; with a small backlog this is "
        "most of them, so compare p99, not p50.",
        (
            Figure("rate", "jobs/s", more_is_better=True),
            Figure("add_p50_ms", "adding an urgent job, p50, ms"),
            Figure("add_max_ms", "adding an urgent job, max, ms"),
            Figure("p50_ms", "wait of urgent jobs, p50, ms"),
            Figure("p99_ms", "wait of urgent jobs, p99, ms", chart="wait of urgent jobs, p99, ms", logarithmic=True),
        ),
    ),
    Section(
        "idle",
        "Start, and the cost of an idle worker",
        "From the start of the process until it claims a waiting job (for peers: until its handler starts). The daemon "
        "runs complete, with HTTP server, health checks and metrics; each peer runs only a worker. The Redis commands "
        "of an idle worker are counted for a minute (in the quick plan for five seconds, scaled to a minute). For the "
        "daemon, the minute starts after it has stored the statistics of its first job.",
        (
            Figure("start_s", "start to first job, s"),
            Figure(
                "commands_per_min",
                "Redis commands per minute",
                chart="Redis commands per minute, idle",
                logarithmic=True,
            ),
            Figure("rss_mb", "RSS, MB", chart="memory of an idle worker, RSS in MB"),
        ),
    ),
    Section(
        "recovery",
        "Recovery after kill -9",
        "A worker is killed while it runs a job, and is started again at once: the time from the kill until the job "
        "runs again. The daemon recovers its own jobs when the same instance starts again; another instance would wait "
        "until the lock has expired, 30 s by default, as npm bull does. Most peers wait for a lock or a visibility "
        "timeout; they run with their default timeouts.",
        (Figure("seconds", "s", chart="seconds from kill -9 until the job runs again", logarithmic=True),),
    ),
)


@dataclass(frozen=True, slots=True)
class Goal:
    """A promise about our own figures; `value` is None when it was not measured."""

    text: str
    wanted: float
    compare: Callable[[float, float], bool]
    value: Callable[[Results], float | None]


def best_peer(results: Results, step: str, figure: str, *, kind: str = "python") -> str | None:
    """The peer of a kind with the highest median."""
    found = {
        name: spread.middle
        for name in results.peers(step)
        if BY_NAME[name].kind == kind and (spread := results.spread(step, name, figure))
    }
    return max(found, key=found.__getitem__) if found else None


def _ratio_to_best(step: str) -> Callable[[Results], float | None]:
    def value(results: Results) -> float | None:
        best = best_peer(results, step, "rate")
        return None if best is None else results.ratio(step, best, "rate")

    return value


def _own(step: str, figure: str) -> Callable[[Results], float | None]:
    def value(results: Results) -> float | None:
        spread = results.spread(step, US, figure)
        return None if spread is None else spread.middle

    return value


def _scripts_to_drain(results: Results) -> float | None:
    ratio = results.ratio("scripts", US, "rate", other_step="drain")
    return None if ratio is None else ratio


RATIO_GOAL_DRAIN, RATIO_GOAL_EMAILS = 10.0, 5.0
GOALS = (
    Goal(
        "no-op jobs: rate relative to npm bull, times",
        3.0,
        operator.ge,
        lambda results: results.ratio("drain", "bull", "rate"),
    ),
    Goal(
        "no-op jobs: rate relative to the best Python peer, times",
        RATIO_GOAL_DRAIN,
        operator.ge,
        _ratio_to_best("drain"),
    ),
    Goal("no-op jobs: rate of the scripts alone relative to the worker's, times", 1.6, operator.le, _scripts_to_drain),
    Goal(
        "real emails: rate relative to the best Python peer with batches, times",
        RATIO_GOAL_EMAILS,
        operator.ge,
        _ratio_to_best("mails-batch"),
    ),
    Goal(
        "real emails at 10 requests/s: rate relative to the best peer, one request per email, times",
        50.0,
        operator.ge,
        _ratio_to_best("mails-limited"),
    ),
    Goal("recovery after kill -9, s", 1.0, operator.le, _own("recovery", "seconds")),
    Goal("start to first claim, s", 0.6, operator.le, _own("idle", "start_s")),
    Goal("idle: Redis commands per minute", 15.0, operator.le, _own("idle", "commands_per_min")),
    Goal("idle: RSS, MB", 70.0, operator.le, _own("idle", "rss_mb")),
)
