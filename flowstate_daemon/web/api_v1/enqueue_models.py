"""Emails that other programs enqueue: every mistake is found before anything is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic.config import ConfigDict, JsonDict

from flowstate_daemon.base.address import parse_address
from flowstate_daemon.base.errors import InvalidDataError
from flowstate_daemon.base.redaction import escape_control_chars
from flowstate_daemon.mail.kinds import KINDS, Kind, find_mistakes
from flowstate_daemon.web.api_v1.endpoints import ApiModel, unfulfillable
from flowstate_daemon.web.api_v1.models import Document

MAX_MAILS = 1_000
MAX_KEY = 256
NEW_EMAILS: JsonDict = {
    "emails": [{"kind": "welcome", "to": "ada@example.org", "context": {"name": "Ada"}}],
    "idempotency_key": "welcome-ada",
}


def unquote(key: str) -> str:
    """The key of the header, which clients send in double quotes (a string of RFC 9651) or bare."""
    bare = key[1:-1] if len(key) > 1 and key[0] == key[-1] == '"' else key
    if not bare:
        raise ValueError("must not be empty")
    return bare


class KeyHeaders(ApiModel):
    idempotency_key: (
        Annotated[
            str,
            Field(min_length=1, max_length=MAX_KEY, pattern=r"^[\x20-\x7e]+$"),
            AfterValidator(unquote),
        ]
        | None
    ) = Field(None, alias="Idempotency-Key")
    """The same as `idempotency_key` in the body, in ASCII, bare or in double quotes."""


class NewEmail(ApiModel):
    """One email to enqueue."""

    kind: Annotated[str, Field(max_length=200, examples=sorted(KINDS))]
    """The kind of email: a built-in one, or one of `mail.kinds_dir`."""
    to: Annotated[str, Field(max_length=320)]
    """The address."""
    context: Annotated[Mapping[str, Any], Field(validate_default=True)] = {}
    """The fields of the kind."""
    locale: Annotated[str, Field(max_length=35)] | None = None
    """The language; without it, the recipient's choice."""
    delay_ms: Annotated[int, Field(ge=0, le=31_536_000_000)] = 0
    """Send after this time."""

    @field_validator("kind")
    @classmethod
    def _is_known(cls, kind: str, info: ValidationInfo) -> str:
        if kind not in kinds_of(info):
            known = ", ".join(sorted(kinds_of(info)))
            raise unfulfillable(f"unknown kind of email {escape_control_chars(kind)[:100]!r}; known kinds: {known}")
        return kind

    @field_validator("to")
    @classmethod
    def _is_address(cls, to: str) -> str:
        try:
            parse_address(to)
        except InvalidDataError as error:
            raise unfulfillable(error.reason) from None
        return to

    @field_validator("context")
    @classmethod
    def _fits_kind(cls, context: Mapping[str, Any], info: ValidationInfo) -> Mapping[str, Any]:
        kind = kinds_of(info).get(info.data.get("kind", ""))
        mistakes = [] if kind is None else find_mistakes(kind, context)
        if mistakes:
            raise unfulfillable("; ".join(mistakes))
        return context


class NewEmails(ApiModel):
    """Emails to enqueue: all, or none if one of them is invalid."""

    model_config = ConfigDict(json_schema_extra={"examples": [NEW_EMAILS]})

    emails: Annotated[Sequence[NewEmail], Field(min_length=1, max_length=MAX_MAILS)]
    idempotency_key: Annotated[str, Field(min_length=1, max_length=MAX_KEY)] | None = None
    """The same key with the same emails enqueues them once within 24 hours; with other emails it is refused. The
    header `Idempotency-Key` means the same."""

    @field_validator("idempotency_key")
    @classmethod
    def _is_the_only_one(cls, key: str | None, info: ValidationInfo) -> str | None:
        headers: KeyHeaders | None = info.context["headers"] if info.context else None
        in_header = None if headers is None else headers.idempotency_key
        if None not in (key, in_header) and key != in_header:
            raise unfulfillable("is not that of the header Idempotency-Key: send one of the two, or the same in both")
        return key


def kinds_of(info: ValidationInfo) -> Mapping[str, Kind]:
    """The kinds of email of this daemon, from the context of the endpoint."""
    kinds: Mapping[str, Kind] = info.context["kinds"] if info.context else KINDS
    return kinds


class Enqueued(Document):
    """The jobs, in the order of the emails. `repeated`: the key was known, and nothing was added."""

    job_ids: list[str]
    repeated: bool
