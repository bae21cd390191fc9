"""The order in which emails are sent: codes first, then by priority, then by arrival. Pure.

Single emails are grouped when a request may start. Batches stay together: stored requests, and the parts of a batch
that was rejected as a whole. An email whose result is done is skipped.
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
        self._mails: Heap[OutgoingMail] = []
        self._batches: Heap[Batch] = []
        self._sequence = count()

    def __len__(self) -> int:
        """The number of single emails; some of them may be done."""
        return len(self._mails)

    @property
    def mail_count(self) -> int:
        """All waiting emails, single or in batches; some of the single ones may be done."""
        return len(self._mails) + sum(len(batch.pending) for _, _, batch in self._batches)

    def push(self, mail: OutgoingMail) -> None:
        """Add an email; one that comes back keeps its old position."""
        heapq.heappush(self._mails, (self._rank(mail), next(self._sequence), mail))

    def push_batch(self, batch: Batch) -> None:
        if batch.pending:
            rank = min(self._rank(mail) for mail in batch.pending)
            heapq.heappush(self._batches, (rank, next(self._sequence), batch))

    @property
    def empty(self) -> bool:
        self._drop_done()
        return not self._mails and not self._batches

    @property
    def has_urgent(self) -> bool:
        """Whether the next email to be sent is a code."""
        first = self._first_rank()
        return first is not None and not first[0]

    def pop(self, fits: Callable[[OutgoingMail], bool], *, max_mails: int, urgent_only: bool) -> Batch | None:
        """The next request: a batch as it is, or the most urgent emails; one that does not fit is sent alone."""
        first_rank = self._first_rank()
        if first_rank is None:
            return None
        if self._batches and self._batches[0][0] == first_rank:
            return heapq.heappop(self._batches)[2]
        first = heapq.heappop(self._mails)[2]
        if not fits(first):
            return Batch([first])
        return Batch([first, *self._pop_companions(fits, max_mails=max_mails - 1, urgent_only=urgent_only)])

    def _pop_companions(
        self, fits: Callable[[OutgoingMail], bool], *, max_mails: int, urgent_only: bool
    ) -> list[OutgoingMail]:
        companions: list[OutgoingMail] = []
        kept: Heap[OutgoingMail] = []
        while self._mails and len(companions) < max_mails:
            entry = heapq.heappop(self._mails)
            mail = entry[2]
            if urgent_only and not mail.urgent:
                kept.append(entry)
                break
            if mail.done:
                continue
            if fits(mail):
                companions.append(mail)
            else:
                kept.append(entry)
        for entry in kept:
            heapq.heappush(self._mails, entry)
        return companions

    def _rank(self, mail: OutgoingMail) -> Rank:
        if mail.sequence is None:
            mail.sequence = next(self._sequence)
        return not mail.urgent, mail.priority, mail.sequence

    def _drop_done(self) -> None:
        """Drop what is first and not needed any more."""
        while self._mails and self._mails[0][2].result.done():
            heapq.heappop(self._mails)
        while self._batches and not self._batches[0][2].pending:
            heapq.heappop(self._batches)

    def _first_rank(self) -> Rank | None:
        self._drop_done()
        ranks = [heap[0][0] for heap in (self._mails, self._batches) if heap]
        return min(ranks) if ranks else None
