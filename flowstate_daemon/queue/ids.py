"""Which ids a job can have: jobs live directly under the queue's prefix, beside the queue's own keys.

An id like `wait` or `7:lock` names something else there: whoever reads or removes a job by id asks
here first.
"""

from __future__ import annotations

RESERVED = frozenset({
    "", "id", "wait", "active", "paused", "delayed", "completed", "failed", "priority", "meta", "meta-paused",
    "stalled", "stalled-check", "repeat", "limiter",
})  # fmt: skip
RESERVED_STARTS = ("de:", "limiter:", "metrics:", "flowstate:")
RESERVED_ENDS = (":lock", ":logs")


def names_a_job(job_id: str) -> bool:
    """Whether a job can have this id without being mistaken for another key of the queue."""
    if not job_id.isascii() and job_id != job_id.encode("utf-8", "replace").decode():
        return False  # half a character, as a terminal may hand it over: no key can have it
    return job_id not in RESERVED and not job_id.startswith(RESERVED_STARTS) and not job_id.endswith(RESERVED_ENDS)
