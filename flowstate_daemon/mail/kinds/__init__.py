"""The kinds of email, one folder for each, and the parsing of a job's data.

KINDS are the built-in ones; `catalog` loads them together with those of `mail.kinds_dir`. `docs/emails.md` explains the
files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from flowstate_daemon.base.address import parse_address
from flowstate_daemon.base.errors import InvalidDataError, RetryableError
from flowstate_daemon.base.lenient_json import repair_json
from flowstate_daemon.base.redaction import (
    escape_control_chars,
    may_contain_code,
    redact_code_fields,
    redact_text,
)
from flowstate_daemon.mail.contexts import Context
from flowstate_daemon.mail.kind_files import KindFiles, read_kind_files
from flowstate_daemon.mail.kind_spec import URGENT_PRIORITY, Kind, parse_kind
from flowstate_daemon.mail.locales import LOCALES, match_locale

__all__ = [
    "KINDS",
    "URGENT_PRIORITY",
    "Kind",
    "MailRequest",
    "UnknownKindError",
    "find_mistakes",
    "parse_request",
    "redact_codes",
]

MAX_NAME_LENGTH = 100


def load_kinds(files: KindFiles, problems: list[str]) -> dict[str, Kind]:
    """All kinds whose `kind.toml` has no problem."""
    kinds = {}
    for name in files.kinds:
        file = files.get(name, "kind.toml")
        if file is None:
            example = next(path for key, path in files.files.items() if key.startswith(f"{name}/"))
            problems.append(example.problem(f"the folder {name} has no kind.toml"))
        elif (kind := parse_kind(name, file, problems)) is not None:
            kinds[name] = kind
    return kinds


def _built_in_kinds() -> Mapping[str, Kind]:
    problems: list[str] = []
    kinds = load_kinds(read_kind_files(None, problems), problems)
    if problems:
        raise ValueError("; ".join(problems))
    return kinds


KINDS = _built_in_kinds()


class UnknownKindError(RetryableError):
    """The kind is unknown. As in Bull an ordinary failed attempt, because a newer daemon may know the kind."""

    def __init__(self, name: str) -> None:
        shown = escape_control_chars(redact_text(name[:MAX_NAME_LENGTH]))[:MAX_NAME_LENGTH]
        super().__init__(f"Missing process handler for job type {shown}")


@dataclass(frozen=True, slots=True)
class MailRequest:
    """A validated email, ready to be rendered. `locale` is None if the job names no supported language.

    `written_to` is the address as the job has it, which is how the application has stored it.
    """

    spec: Kind = field(repr=False)
    to: str = field(repr=False)
    written_to: str = field(repr=False)
    context: Context = field(repr=False)
    locale: str | None = None

    @property
    def kind(self) -> str:
        return self.spec.name


class JobPayload(msgspec.Struct, frozen=True):
    """A job's data, before its context is decoded."""

    to: str
    context: msgspec.Raw
    type: str | None = None
    locale: Any = None


PAYLOAD_DECODER = msgspec.json.Decoder(JobPayload)


def parse_request(
    name: str, data: bytes, kinds: Mapping[str, Kind] = KINDS, locales: Sequence[str] = LOCALES
) -> MailRequest:
    """Parse the data of the job called `name`.

    Raises:
        UnknownKindError: the kind is unknown.
        InvalidDataError: the data is invalid; the message contains the path and never a value.
    """
    kind = kinds.get(name)
    if kind is None:
        raise UnknownKindError(name)
    try:
        return _parse(kind, data, locales)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _parse(kind, _repair(data, error), locales)
    except RecursionError:
        raise InvalidDataError("Expected data that is not nested this deeply - at `$`") from None


def find_mistakes(kind: Kind, context: Mapping[str, Any]) -> list[str]:
    """Every reason why an email of this kind cannot have this context, where `parse_request` stops at the first."""
    try:
        members = msgspec.json.decode(msgspec.json.encode(context))
    except (msgspec.MsgspecError, TypeError, UnicodeEncodeError, RecursionError) as error:
        return [str(error)]
    mistakes = []
    for rule in kind.rules:
        try:
            rule.clean(rule.convert(members))
        except InvalidDataError as error:
            mistakes.append(error.reason)
    return mistakes


def _repair(data: bytes, error: Exception) -> bytes:
    """The data without dirt. Raises InvalidDataError if it is not JSON."""
    try:
        return repair_json(data)
    except (ValueError, RecursionError):
        raise InvalidDataError(f"Expected valid JSON ({error}) - at `$`") from None


def _parse(kind: Kind, data: bytes, locales: Sequence[str]) -> MailRequest:
    """Raises InvalidDataError, or DecodeError and UnicodeDecodeError if the JSON is malformed."""
    try:
        payload = PAYLOAD_DECODER.decode(data)
    except msgspec.ValidationError as error:
        raise _invalid(error, "$") from None
    if payload.type is not None and payload.type != kind.name:
        raise InvalidDataError(f"Expected the job's own name, {kind.name}, got another one - at `$.type`")
    values = [rule.clean(value) for rule, value in zip(kind.rules, _decode_context(kind, payload.context), strict=True)]
    to = parse_address(payload.to)
    return MailRequest(kind, to, payload.to, kind.context(*values), match_locale(payload.locale, locales))


def _decode_context(kind: Kind, context: msgspec.Raw) -> list[Any]:
    """The value of each field, in the order of the rules."""
    try:
        found = kind.decoder.decode(context)
    except msgspec.ValidationError as error:
        members = msgspec.json.decode(context)
        if not isinstance(members, dict):
            raise _invalid(error, "$.context") from None
        return [rule.convert(members) for rule in kind.rules]
    return [getattr(found, rule.name) for rule in kind.rules]


def _invalid(error: msgspec.ValidationError, root: str) -> InvalidDataError:
    """The error with the path from the root of the job's data."""
    message = str(error)
    return InvalidDataError(message.replace("`$", f"`{root}") if "`$" in message else f"{message} - at `{root}`")


UNREADABLE_DATA = msgspec.json.encode(
    {"redacted": "this data could not be read and may have contained a one-time code"}
)


def redact_codes(kind: str, data: bytes, kinds: Mapping[str, Kind] = KINDS) -> bytes:
    """The data of a settled job without its codes; empty if there are none and the data may stay as it is."""
    known = kinds.get(kind)
    has_code = known is not None and known.has_code
    if not has_code and not may_contain_code(data):
        return b""
    try:
        content = _decode_dirty(data)
        if has_code and not isinstance(content["context"], dict):
            return UNREADABLE_DATA  # the code may be anywhere
        return msgspec.json.encode(redact_code_fields(content))
    except (ValueError, RecursionError, TypeError, KeyError):
        return UNREADABLE_DATA


def _decode_dirty(data: bytes) -> Any:
    """Raises ValueError or RecursionError."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return msgspec.json.decode(repair_json(data))
