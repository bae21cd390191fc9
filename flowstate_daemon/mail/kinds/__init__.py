"""The kinds of email, one folder for each, and the parsing of a job's data.

KINDS are the built-in ones; `catalog` loads them together with those of `mail.kinds_dir`. `docs/emails.md` explains the
files.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from flowstate_daemon.base.errors import InvalidDataError, RetryableError
from flowstate_daemon.base.redaction import (
    escape_control_chars,
    may_contain_code,
    redact_code_fields,
    redact_text,
)
from flowstate_daemon.mail.address import parse_address
from flowstate_daemon.mail.contexts import Context
from flowstate_daemon.mail.field_types import MAX_FIELD_BYTES
from flowstate_daemon.mail.kind_files import KindFiles, read_kind_files
from flowstate_daemon.mail.kind_spec import URGENT_PRIORITY, Kind, parse_kind
from flowstate_daemon.mail.locales import LOCALES, match_locale

__all__ = ["KINDS", "URGENT_PRIORITY", "Kind", "MailRequest", "UnknownKindError", "parse_request", "redact_codes"]

MAX_CONTEXT_BYTES = 256 * 1024  # bytes of JSON, including unknown fields
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
    """A validated email, ready to be rendered. `locale` is None if the job names no supported language."""

    spec: Kind = field(repr=False)
    to: str = field(repr=False)
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
    return MailRequest(kind, parse_address(payload.to), kind.context(*values), match_locale(payload.locale, locales))


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
