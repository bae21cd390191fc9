"""A stored request as data: what `request_store.py` keeps in Redis, and `recent_requests.py` in memory."""

from __future__ import annotations

from dataclasses import dataclass, field

JobRef = tuple[str, int]


@dataclass(frozen=True, slots=True)
class StoredRequest:
    """A request that is saved before it is sent. `members` are id and timestamp of its jobs, in body order.

    `numbers` are how many requests have contained each member, this one included; empty if an older version stored it.
    `response` holds the encoded results of the provider's response, if known; `saved_at` is in Unix ms.
    """

    id: str
    path: str
    body: bytes = field(repr=False)
    key: str
    members: tuple[JobRef, ...]
    response: bytes | None = None
    saved_at: int = 0
    numbers: tuple[int, ...] = ()

    def number_of(self, job: JobRef) -> int | None:
        """How many requests have contained this member, this one included; None if it is not known."""
        if len(self.numbers) != len(self.members) or job not in self.members:
            return None
        return self.numbers[self.members.index(job)]
