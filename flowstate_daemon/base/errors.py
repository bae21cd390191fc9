"""Errors whose class is their fate.

Every room translates foreign errors into one of these at its own border; nobody above compares messages.
`reason` is written for a person, may be stored with the job and shown in Bull's tools, and therefore never
carries a code, a key, a token or a full address.
"""

from __future__ import annotations

from collections.abc import Sequence


class FlowstateError(Exception):
    """The root of every error this daemon raises on purpose."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class RetryableError(FlowstateError):
    """This attempt failed, a later one may succeed. Counts as an attempt; the job's own backoff decides when.

    `after_ms` is the earliest time, from now, that the other side will accept a new try (0 = no wish).
    """

    def __init__(self, reason: str, *, after_ms: int = 0) -> None:
        super().__init__(reason)
        self.after_ms = after_ms


class PermanentError(FlowstateError):
    """No further attempt can succeed: the job goes to `failed` at once, whatever attempts are left."""


class InvalidDataError(PermanentError):
    """The job itself is wrong: its data or options are not what any worker could use."""


class MailSkipped(FlowstateError):  # noqa: N818 - a control signal, not an error
    """There is nothing to send, on purpose: the job completes and says why."""


class MailExpired(MailSkipped):
    """What the mail says is no longer true, such as a code past its life: it is never sent late."""


class RateLimitedError(FlowstateError):
    """The provider asks the whole pool to slow down. Not an attempt: the same request goes again later."""

    def __init__(self, reason: str, *, after_ms: int) -> None:
        super().__init__(reason)
        self.after_ms = after_ms


class RequestInProgressError(FlowstateError):
    """The provider still works on the same request. Not an attempt: it goes again after `after_ms`, unchanged."""

    def __init__(self, reason: str, *, after_ms: int) -> None:
        super().__init__(reason)
        self.after_ms = after_ms


class AlreadyAcceptedError(FlowstateError):
    """The provider holds another body under this key: it has accepted these mails before. Never sent again."""


class QuotaExceededError(FlowstateError):
    """The account has used up what it may send until `until_ms`. Not an attempt; bulk waits, codes may try."""

    def __init__(self, reason: str, *, until_ms: int) -> None:
        super().__init__(reason)
        self.until_ms = until_ms


class ProviderRefusedError(FlowstateError):
    """The provider refuses the account, the key or the domain: every mail would fail. Not an attempt; jobs stay."""


class StoreUnavailableError(FlowstateError):
    """One of our stores is away, still loading, read-only or full. Never an attempt, never the end of the house."""


class StaleDecisionError(FlowstateError):
    """What was decided about this mail is too old to act on. Not an attempt: the job goes back and is judged anew."""


class LockLostError(FlowstateError):
    """Another worker owns the job by now: this run's result is worthless and must not be written."""


class LeaseHeldError(FlowstateError):
    """Another live daemon runs under the same instance id."""


class ServiceCrashedError(FlowstateError):
    """A loop met an error that nobody had foreseen: the house ends, so that a supervisor can start it afresh."""


class ConfigError(FlowstateError):
    """The configuration is wrong; `mistakes` names every mistake, one line each."""

    def __init__(self, errors: Sequence[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = tuple(errors)
