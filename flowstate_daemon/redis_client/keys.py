"""The names of all Redis keys and channels of one queue, in Bull 4's layout.

Python code builds every key here. Keys that Bull does not know are under `flowstate:`.
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
    """Whether the id is a valid job id, which differs from every other key of the queue."""
    if not job_id.isascii() and job_id != job_id.encode("utf-8", "replace").decode():
        return False  # half a surrogate pair from a terminal: no key can contain it
    return job_id not in RESERVED and not job_id.startswith(RESERVED_STARTS) and not job_id.endswith(RESERVED_ENDS)


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys of the queue `name` under `prefix`. A prefix in braces puts them all in one hash slot of a cluster."""

    prefix: str = "bull"
    name: str = "email"

    @property
    def base(self) -> str:
        """The prefix of every key, with the colon: `bull:email:`."""
        return f"{self.prefix}:{self.name}:"

    def __call__(self, tail: str) -> str:
        """A key or channel of the queue: `keys("wait")`, `keys("waiting@token")`."""
        return f"{self.base}{tail}"

    def job(self, job_id: str) -> str:
        """The hash of the job."""
        return f"{self.base}{job_id}"

    def lock(self, job_id: str) -> str:
        return f"{self.base}{job_id}:lock"

    def logs(self, job_id: str) -> str:
        return f"{self.base}{job_id}:logs"

    def own(self, tail: str) -> str:
        """A key that only this daemon uses, not Bull."""
        return f"{self.base}flowstate:{tail}"

    @property
    def hash_tagged(self) -> bool:
        """Whether all keys are in one hash slot: the first braces are not empty."""
        opened = self.base.find("{")
        return opened >= 0 and self.base.find("}", opened) > opened + 1

    @property
    def client_name(self) -> str:
        """The prefix of connection names that Bull's `getWorkers()` counts."""
        return f"{self.prefix}:{b64encode(self.name.encode()).decode()}"
