"""The order in which mails leave: codes first, then by priority, then by arrival. Pure; the bus asks.

Loose parcels are put together when a request may start; loads stay together: sealed requests, and the parts of one
that was refused as a whole. A parcel that nobody waits for any more is passed over.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import TypeVar

from flowstate_daemon.sending.batch import Batch, OutgoingMail

Rank = tuple[bool, int, int]
T = TypeVar("T", OutgoingMail, Batch)
Heap = list[tuple[Rank, int, T]]


class SendQueue:
    """Everything that waits for a request to start."""

    def __init__(self) -> None:
        self._loose: Heap[OutgoingMail] = []
        self._loads: Heap[Batch] = []
        self._places = count()

    def __len__(self) -> int:
        """Loose parcels; some of them may be gone."""
        return len(self._loose)

    @property
    def mail_count(self) -> int:
        """All that wait, loose or in loads; some of the loose may be gone."""
        return len(self._loose) + sum(len(load.pending) for _, _, load in self._loads)

    def push(self, mail: OutgoingMail) -> None:
        """Line up; a parcel that comes back takes its old place."""
        heapq.heappush(self._loose, (self._rank(mail), next(self._places), mail))

    def push_batch(self, load: Batch) -> None:
        if load.pending:
            rank = min(self._rank(mail) for mail in load.pending)
            heapq.heappush(self._loads, (rank, next(self._places), load))

    @property
    def empty(self) -> bool:
        return self._head() is None

    @property
    def has_urgent(self) -> bool:
        """Is the next to leave a code?"""
        head = self._head()
        return head is not None and not head[0]

    def pop(self, fits: Callable[[OutgoingMail], bool], *, most: int, urgent_only: bool) -> Batch | None:
        """The next request: a load as it is, or the most urgent parcels, of which one that does not fit goes alone."""
        head = self._head()
        if head is None:
            return None
        if self._loads and self._loads[0][0] == head:
            return heapq.heappop(self._loads)[2]
        first = heapq.heappop(self._loose)[2]
        if not fits(first):
            return Batch([first])
        return Batch([first, *self._companions(fits, most=most - 1, urgent_only=urgent_only)])

    def _companions(self, fits: Callable[[OutgoingMail], bool], *, most: int, urgent_only: bool) -> list[OutgoingMail]:
        found: list[OutgoingMail] = []
        alone: Heap[OutgoingMail] = []
        while self._loose and len(found) < most:
            entry = heapq.heappop(self._loose)
            mail = entry[2]
            if urgent_only and not mail.urgent:
                alone.append(entry)
                break
            if mail.done:
                continue
            if fits(mail):
                found.append(mail)
            else:
                alone.append(entry)
        for entry in alone:
            heapq.heappush(self._loose, entry)
        return found

    def _rank(self, mail: OutgoingMail) -> Rank:
        if mail.sequence is None:
            mail.sequence = next(self._places)
        return not mail.urgent, mail.priority, mail.sequence

    def _head(self) -> Rank | None:
        while self._loose and self._loose[0][2].done:
            heapq.heappop(self._loose)
        while self._loads and not self._loads[0][2].pending:
            heapq.heappop(self._loads)
        ranks = [heap[0][0] for heap in (self._loose, self._loads) if heap]
        return min(ranks) if ranks else None
