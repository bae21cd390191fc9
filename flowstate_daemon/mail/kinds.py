"""The nine kinds of email with their fields, priorities and secrets, and the parsing of a job's data.

A new kind needs a struct in `contexts`, an entry in KINDS, templates, translations and a sample.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from flowstate_daemon.base.address import parse_address
from flowstate_daemon.base.errors import InvalidDataError, RetryableError
from flowstate_daemon.base.redaction import (
    escape_control_chars,
    is_secret_name,
    may_contain_code,
    redact_code_fields,
    redact_text,
)
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
from flowstate_daemon.mail.field_types import MAX_FIELD_BYTES, FieldRule, ListRule, build_rules
from flowstate_daemon.mail.locales import match_locale

MAX_CONTEXT_BYTES = 256 * 1024  # bytes of JSON, including unknown fields
MAX_NAME_LENGTH = 100
URGENT_PRIORITY = 1


@dataclass(frozen=True, slots=True)
class Kind:
    """The properties of one kind of email. `secret_fields` are names in the job's JSON context."""

    name: str
    context: type[Context]
    priority: int
    unsubscribable: bool
    secret_fields: frozenset[str]
    decoder: msgspec.json.Decoder[Context]
    rules: tuple[FieldRule | ListRule, ...]

    @property
    def urgent(self) -> bool:
        """Whether the recipient is waiting for the email, so that it is sent before bulk emails."""
        return self.priority == URGENT_PRIORITY


def _kind(name: str, context: type[Context], priority: int, *, unsubscribable: bool = False) -> Kind:
    return Kind(
        name=name,
        context=context,
        priority=priority,
        unsubscribable=unsubscribable,
        secret_fields=frozenset(name for name in context.__struct_encode_fields__ if is_secret_name(name)),
        decoder=msgspec.json.Decoder(context),
        rules=build_rules(context),
    )


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        _kind("otp", OneTimeCode, URGENT_PRIORITY),
        _kind("password-reset", OneTimeCode, URGENT_PRIORITY),
        _kind("welcome", Welcome, 5),
        _kind("project-invitation", ProjectInvitation, 5),
        _kind("task-reminder", TaskReminder, 5, unsubscribable=True),
        _kind("overdue-summary", OverdueSummary, 5, unsubscribable=True),
        _kind("goal-milestone", GoalMilestone, 10, unsubscribable=True),
        _kind("streak-milestone", StreakMilestone, 10, unsubscribable=True),
        _kind("focus-report", FocusReport, 10, unsubscribable=True),
    )
}


class UnknownKindError(RetryableError):
    """The kind is unknown. As in Bull an ordinary failed attempt, because a newer daemon may know the kind."""

    def __init__(self, name: str) -> None:
        shown = escape_control_chars(redact_text(name[:MAX_NAME_LENGTH]))[:MAX_NAME_LENGTH]
        super().__init__(f"Missing process handler for job type {shown}")


@dataclass(frozen=True, slots=True)
class MailRequest:
    """A validated email, ready to be rendered. `locale` is None if the job names no supported language."""

    kind: str
    to: str = field(repr=False)
    context: Context = field(repr=False)
    locale: str | None = None


class JobPayload(msgspec.Struct, frozen=True):
    """A job's data, before its context is decoded."""

    to: str
    context: msgspec.Raw
    type: str | None = None
    locale: Any = None


PAYLOAD_DECODER = msgspec.json.Decoder(JobPayload)


def parse_request(name: str, data: bytes) -> MailRequest:
    """Parse the data of the job called `name`.

    Raises:
        UnknownKindError: the kind is unknown.
        InvalidDataError: the data is invalid; the message contains the path and never a value.
    """
    kind = KINDS.get(name)
    if kind is None:
        raise UnknownKindError(name)
    payload = _decode(PAYLOAD_DECODER, data, "$")
    if payload.type is not None and payload.type != name:
        raise InvalidDataError(f"Expected the job's own name, {name}, got another one - at `$.type`")
    size = memoryview(payload.context).nbytes
    if size > MAX_CONTEXT_BYTES:
        raise InvalidDataError(
            f"Context too large: {size} bytes, at most {MAX_CONTEXT_BYTES} are allowed - at `$.context`"
        )
    context = _decode(kind.decoder, payload.context, "$.context")
    if size > MAX_FIELD_BYTES:  # the text of a field is never longer than its JSON
        for rule in kind.rules:
            rule.check_size(getattr(context, rule.name))
    values = [rule.clean(getattr(context, rule.name)) for rule in kind.rules]
    return MailRequest(name, parse_address(payload.to), kind.context(*values), match_locale(payload.locale))


def _decode(decoder: msgspec.json.Decoder[Any], text: bytes | msgspec.Raw, root: str) -> Any:
    """Decode JSON; an error contains the path from the root of the job's data."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        message = str(error)
        raise InvalidDataError(
            message.replace("`$", f"`{root}") if "`$" in message else f"{message} - at `{root}`"
        ) from None
    except RecursionError:
        raise InvalidDataError(f"Expected data that is not nested this deeply - at `{root}`") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidDataError(f"{_fault(bytes(text), error)} - at `{root}`") from None


def _fault(text: bytes, error: Exception) -> str:
    """A readable reason why msgspec cannot decode the JSON; msgspec's own message only has byte positions."""
    try:
        json.loads(text.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        return "Expected UTF-8"
    except (ValueError, RecursionError):
        return f"Expected valid JSON ({error})"
    # JavaScript may cut an emoji in half and write half of a surrogate pair, which Python's own decoder accepts.
    return "Expected whole characters, got half of a surrogate pair"


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


UNREADABLE_DATA = msgspec.json.encode(
    {"redacted": "this data could not be read and may have contained a one-time code"}
)


def redact_codes(kind: str, data: bytes) -> bytes:
    """The data of a settled job without its codes; empty if there are none and the data may stay as it is."""
    known = KINDS.get(kind)
    has_code = known is not None and bool(known.secret_fields)
    if not has_code and not may_contain_code(data):
        return b""
    try:
        content = msgspec.json.decode(data)
        if has_code and not isinstance(content["context"], dict):
            return UNREADABLE_DATA  # the code may be anywhere
        return msgspec.json.encode(redact_code_fields(content))
    except (msgspec.DecodeError, UnicodeError, RecursionError, TypeError, KeyError):
        return UNREADABLE_DATA
