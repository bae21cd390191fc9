"""The nine kinds of mail: the fields of each, its priority, its secrets; and the reading of a job's data.

`intake` checks orders with it, `work` reads jobs with it. A new kind is a struct in `contexts`, a row here, a template,
words and a sample. Field names are JavaScript's on the wire and Python's in here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from flowstate_daemon.base.errors import Malformed, Retry
from flowstate_daemon.base.privacy import escaped, scrubbed
from flowstate_daemon.mail.address import read_address
from flowstate_daemon.mail.contexts import (
    Context,
    FocusReport,
    GoalMilestone,
    OneTimeCode,
    OverdueSummary,
    ProjectInvitation,
    StreakMilestone,
    TaskReminder,
    Welcome,
)
from flowstate_daemon.mail.fields import (
    LARGEST_FIELD,
    ListRule,
    Rule,
    rules_of,
)
from flowstate_daemon.mail.language import spoken

LARGEST_CONTEXT = 256 * 1024  # bytes of JSON, fields that nobody reads included
LONGEST_NAME = 100
URGENT = 1


@dataclass(frozen=True, slots=True)
class Kind:
    """What is fixed for all mails of one kind. `secret_fields` are names in the job's JSON context."""

    name: str
    context: type[Context]
    priority: int
    unsubscribable: bool
    secret_fields: frozenset[str]
    decoder: msgspec.json.Decoder[Context]
    rules: tuple[Rule | ListRule, ...]

    @property
    def urgent(self) -> bool:
        """Somebody sits and waits for this mail: it never queues behind others."""
        return self.priority == URGENT


def _kind(name: str, context: type[Context], priority: int, *, unsubscribable: bool = False) -> Kind:
    return Kind(
        name=name,
        context=context,
        priority=priority,
        unsubscribable=unsubscribable,
        secret_fields=frozenset({"otpCode"}) if issubclass(context, OneTimeCode) else frozenset(),
        decoder=msgspec.json.Decoder(context),
        rules=rules_of(context),
    )


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        _kind("otp", OneTimeCode, URGENT),
        _kind("password-reset", OneTimeCode, URGENT),
        _kind("welcome", Welcome, 5),
        _kind("project-invitation", ProjectInvitation, 5),
        _kind("task-reminder", TaskReminder, 5, unsubscribable=True),
        _kind("overdue-summary", OverdueSummary, 5, unsubscribable=True),
        _kind("goal-milestone", GoalMilestone, 10, unsubscribable=True),
        _kind("streak-milestone", StreakMilestone, 10, unsubscribable=True),
        _kind("focus-report", FocusReport, 10, unsubscribable=True),
    )
}


class UnknownKind(Retry):
    """No mail of that name is known here. As in Bull an ordinary failed attempt: a newer daemon may know it."""

    def __init__(self, name: str) -> None:
        shown = escaped(scrubbed(name[:LONGEST_NAME]))[:LONGEST_NAME]
        super().__init__(f"Missing process handler for job type {shown}")


@dataclass(frozen=True, slots=True)
class MailRequest:
    """One mail that can be rendered: every field checked and cleaned. `locale` None: the job names no language."""

    kind: str
    to: str = field(repr=False)
    context: Context = field(repr=False)
    locale: str | None = None


class Envelope(msgspec.Struct, frozen=True):
    """A job's data before anything is known of its context."""

    to: str
    context: msgspec.Raw
    type: str | None = None
    locale: Any = None


ENVELOPES = msgspec.json.Decoder(Envelope)


def read_request(name: str, data: bytes) -> MailRequest:
    """Read the data of the job called `name`.

    Raises:
        UnknownKind: no such kind of mail.
        Malformed: the data can never become a mail; the reason says where, and never repeats a value.
    """
    kind = KINDS.get(name)
    if kind is None:
        raise UnknownKind(name)
    envelope = _decode(ENVELOPES, data, "$")
    if envelope.type is not None and envelope.type != name:
        raise Malformed(f"Expected the job's own name, {name}, got another one - at `$.type`")
    size = memoryview(envelope.context).nbytes
    if size > LARGEST_CONTEXT:
        raise Malformed(f"Context too large: {size} bytes, at most {LARGEST_CONTEXT} are allowed - at `$.context`")
    context = _decode(kind.decoder, envelope.context, "$.context")
    if size > LARGEST_FIELD:  # the text of a field is never longer than its JSON
        for rule in kind.rules:
            rule.weigh(getattr(context, rule.name))
    values = [rule.clean(getattr(context, rule.name)) for rule in kind.rules]
    return MailRequest(name, read_address(envelope.to), kind.context(*values), spoken(envelope.locale))


def _decode(decoder: msgspec.json.Decoder[Any], text: bytes | msgspec.Raw, root: str) -> Any:
    """Decode with a reason that names the place, counted from the top of the job's data."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        said = str(error)
        raise Malformed(said.replace("`$", f"`{root}") if "`$" in said else f"{said} - at `{root}`") from None
    except RecursionError:
        raise Malformed(f"Expected data that is not nested this deeply - at `{root}`") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"{_fault(bytes(text), error)} - at `{root}`") from None


def _fault(text: bytes, error: Exception) -> str:
    """What is wrong with JSON that msgspec does not decode; its own words name bytes by number only."""
    try:
        json.loads(text.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        return "Expected UTF-8"
    except (ValueError, RecursionError):
        return f"Expected valid JSON ({error})"
    # JavaScript cuts strings between the halves of an emoji and writes what is left; Python's own decoder takes it.
    return "Expected whole characters, got half of a surrogate pair"


def _refuse_constant(name: str) -> None:
    raise ValueError(name)
