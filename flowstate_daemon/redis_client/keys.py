"""The names of all Redis keys and channels of one queue, in Bull 4's layout.

The only place that builds a key in Python. Keys of ours that Bull does not know live under `flowstate:`.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass

RESERVED = frozenset({
    "", "id", "wait", "active", "paused", "delayed", "completed", "failed", "priority", "meta", "meta-paused",
    "stalled", "stalled-check", "repeat", "limiter",
})  # fmt: skip
RESERVED_STARTS = ("de:", "limiter:", "metrics:", "flowstate:")
RESERVED_ENDS = (":lock", ":logs")


def is_valid_job_id(job_id: str) -> bool:
    """Whether a job can have this id without being mistaken for another key of the queue."""
    if not job_id.isascii() and job_id != job_id.encode("utf-8", "replace").decode():
        return False  # half a character, as a terminal may hand it over: no key can have it
    return job_id not in RESERVED and not job_id.startswith(RESERVED_STARTS) and not job_id.endswith(RESERVED_ENDS)


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of the queue `name` under `prefix`; a prefix in braces puts them all in one Cluster slot."""

    prefix: str = "bull"
    name: str = "email"

    @property
    def base(self) -> str:
        """What every key starts with, colon included: `bull:email:`."""
        return f"{self.prefix}:{self.name}:"

    def __call__(self, tail: str) -> str:
        """A key or channel of the queue: `keys("wait")`, `keys("waiting@token")`."""
        return f"{self.base}{tail}"

    def job(self, job_id: str) -> str:
        """The job's hash."""
        return f"{self.base}{job_id}"

    def lock(self, job_id: str) -> str:
        return f"{self.base}{job_id}:lock"

    def logs(self, job_id: str) -> str:
        return f"{self.base}{job_id}:logs"

    def own(self, tail: str) -> str:
        """A key that only this daemon knows."""
        return f"{self.base}flowstate:{tail}"

    @property
    def hash_tagged(self) -> bool:
        """Whether a Redis Cluster keeps all of these in one slot: something stands between the first braces."""
        opened = self.base.find("{")
        return opened >= 0 and self.base.find("}", opened) > opened + 1

    @property
    def client_name(self) -> str:
        """What Bull's `getWorkers()` looks for at the start of a connection's name."""
        return f"{self.prefix}:{b64encode(self.name.encode()).decode()}"
