"""The daemon's errors. The class of an error decides how it is handled.

Every package converts errors of libraries into one of these, so that no caller compares messages. `reason` is
meant for operators, may be stored with the job and shown in Bull's tools, and therefore never contains a code, a
key, a token or a full address.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# What became of one request to the provider; the label of its metric.
ResultClass = Literal[
    "accepted",
    "already_accepted",
    "in_progress",
    "server_error",
    "rate_limited",
    "quota_exceeded",
    "refused",
    "rejected",
    "timeout",
    "network_error",
]


@dataclass(frozen=True, slots=True)
class RateLimit:
    """The provider's rate headers: `remaining` of `limit` requests until `reset_s` seconds from now."""

    limit: int
    remaining: int
    reset_s: float


class FlowstateError(Exception):
    """Base class of all errors that the daemon raises itself.

    `delivery` sets `result` and `rate_limit` on the error of a request to the provider. `outcome_unknown`: the request
    may have been accepted all the same.
    """

    result: ResultClass | None = None
    rate_limit: RateLimit | None = None
    outcome_unknown = False

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def drop_frames(self) -> None:
        """Forget where the error was raised, and its cause; the reason says all.

        The frames hold the emails of a request, and these hold the error: megabytes that wait for a full run of the
        garbage collector.
        """
        self.__traceback__ = self.__cause__ = self.__context__ = None


class RetryableError(FlowstateError):
    """This attempt failed, a later one may succeed. Counts as an attempt; the job's own backoff decides when.

    `after_ms` is the minimum delay that the other side asks for (0: none).
    """

    def __init__(self, reason: str, *, after_ms: int = 0) -> None:
        super().__init__(reason)
        self.after_ms = after_ms


class PermanentError(FlowstateError):
    """No further attempt can succeed: the job goes to `failed` at once, whatever attempts remain."""


class MaybeSentError(PermanentError):
    """It is unknown whether the email was sent: the job is parked until a person decides.

    `requests` is how many requests have contained the email: if a person retries the job, a new one may be made.
    """

    def __init__(self, reason: str, *, requests: int) -> None:
        super().__init__(reason)
        self.requests = requests


class InvalidDataError(PermanentError):
    """The job's data or options are invalid for any worker."""


class MailSkipped(FlowstateError):  # noqa: N818 - a control signal, not an error
    """The email is not sent on purpose: the job completes with the reason."""


class MailExpired(MailSkipped):
    """The content is out of date, such as an expired code: the email is never sent late."""


class RateLimitedError(FlowstateError):
    """The provider's rate limit is reached. Not an attempt: the same request is sent again after `after_ms`."""

    def __init__(self, reason: str, *, after_ms: int) -> None:
        super().__init__(reason)
        self.after_ms = after_ms


class RequestInProgressError(FlowstateError):
    """The provider still processes the same request. Not an attempt: it is sent again, unchanged, after `after_ms`."""

    def __init__(self, reason: str, *, after_ms: int) -> None:
        super().__init__(reason)
        self.after_ms = after_ms


class AlreadyAcceptedError(FlowstateError):
    """The provider has another body under this key: it accepted these emails before. They are never sent again."""


class EarlierRequestError(FlowstateError):
    """An earlier request contained the email, and its outcome is not known yet. Not an attempt.

    The job is tried again after `after_ms`.
    """

    def __init__(self, reason: str, *, after_ms: int) -> None:
        super().__init__(reason)
        self.after_ms = after_ms


class QuotaExceededError(FlowstateError):
    """The account's quota is exceeded until `until_ms`. Not an attempt; bulk emails wait, codes are still tried."""

    def __init__(self, reason: str, *, until_ms: int) -> None:
        super().__init__(reason)
        self.until_ms = until_ms


class ProviderRefusedError(FlowstateError):
    """The provider refuses the account, the key or the domain: every email would fail. Not an attempt; jobs wait."""


class UnclearRefusalError(ProviderRefusedError):
    """The provider refuses a request, and it is not known whether it would refuse every email or only these.

    Not an attempt. After `max_in_a_row` such refusals with nothing accepted in between, all emails are concerned; an
    email that is refused again and again while others are accepted is itself the reason.
    """

    after_ms = 0  # the sender sets how long the job waits until it is tried again

    def __init__(self, reason: str, *, max_in_a_row: int) -> None:
        super().__init__(reason)
        self.max_in_a_row = max_in_a_row


class ProviderUnreachableError(FlowstateError):
    """A request could not start for a reason on this side: no descriptors, no memory, no name resolution, no network.

    Not an attempt. `maybe_sent`: the request may have been on its way already.
    """

    def __init__(self, reason: str, *, maybe_sent: bool = False) -> None:
        super().__init__(reason)
        self.maybe_sent = maybe_sent


class StoreUnavailableError(FlowstateError):
    """Redis or Postgres is unreachable, loading, read-only or full. Not an attempt; the daemon keeps running."""


class KeyTypeError(StoreUnavailableError):
    """A key of Redis holds a value of another type: another program wrote it, or a job has the key's name as its id."""


class StaleDecisionError(FlowstateError):
    """The policy decision about this email is too old. Not an attempt: the job is released and checked again."""


class LockLostError(FlowstateError):
    """Another worker owns the job now: the result of this run must not be written."""


class LeaseHeldError(FlowstateError):
    """Another running daemon uses the same instance id."""


class ServiceCrashedError(FlowstateError):
    """A service failed with an unexpected error: the process exits so that the supervisor restarts it."""


class HttpPortError(FlowstateError):
    """The HTTP port cannot be opened now, as while another program uses it: the supervisor may try again."""


RESOURCE_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC})
NETWORK_ERRNOS = frozenset({errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL})
NO_THREAD = "can't start new thread"


def is_resource_shortage(error: BaseException) -> bool:
    """Whether this machine ran out of descriptors, memory, disk or threads: no fault of a job. Pure."""
    if isinstance(error, OSError):
        return error.errno in RESOURCE_ERRNOS
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and str(error) == NO_THREAD)


class ConfigError(FlowstateError):
    """The configuration is invalid; `errors` lists every error, one line each."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = tuple(errors)
