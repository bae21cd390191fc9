"""A gateway that writes emails to a folder instead of sending them: for development and tests.

The emails contain one-time codes, so only the owner of the folder can read it and its files.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from email.errors import MessageError
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from typing import ClassVar

import msgspec

from flowstate_daemon.base.address import ENCODED_WORD, parse_mailbox
from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import PermanentError, ProviderRefusedError
from flowstate_daemon.base.text import is_harmless_header
from flowstate_daemon.delivery.gateway import (
    BATCH_PATH,
    MAX_BATCHED_MAIL_SIZE,
    SINGLE_PATH,
    Rejected,
    Result,
    SendResult,
    size,
)
from flowstate_daemon.mail.message import Accepted, Email

HEADER_NAME = re.compile(r"[!-9;-~]+")
BARE_ADDRESS = re.compile(r"[!-~]+@[!-~]+")


class Outbox:
    """Writes one `.eml` file per email; a second request with the same key replaces the same files."""

    name: ClassVar[str] = "outbox"

    def __init__(self, folder: Path, *, clock: Clock | None = None) -> None:
        self.folder = folder
        self._clock = clock or Clock()

    async def open(self) -> None:
        await asyncio.to_thread(self._make_folder)

    async def close(self) -> None:
        """Nothing stays open between two requests."""

    def can_batch(self, email: Email) -> bool:
        """The limit of the provider, so that the same batches are built as in production."""
        return size(email) <= MAX_BATCHED_MAIL_SIZE

    def encode(self, email: Email) -> bytes:
        """The email as JSON. Raises PermanentError."""
        try:
            return msgspec.json.encode(email)
        except UnicodeEncodeError as error:
            raise PermanentError("this email contains a lone surrogate (half a character)") from error

    def build_request(self, encoded: Sequence[bytes]) -> tuple[str, bytes]:
        """A JSON list, with the paths that the provider has."""
        return SINGLE_PATH if len(encoded) == 1 else BATCH_PATH, b"[%b]" % b",".join(encoded)

    async def check_access(self) -> None:
        """Raises ProviderRefusedError if the folder cannot be used."""
        await asyncio.to_thread(self._make_folder)

    async def send(self, path: str, body: bytes, idempotency_key: str, mails: int) -> SendResult:  # noqa: ARG002
        """Write the emails. Raises PermanentError for an invalid single email, ProviderRefusedError for the folder."""
        emails = msgspec.json.decode(body, type=list[Email])
        results = await asyncio.to_thread(self._write_all, emails, idempotency_key)
        if path == SINGLE_PATH and isinstance(results[0], Rejected):
            raise PermanentError(results[0].reason)
        return SendResult(results)

    def path(self, provider_id: str) -> Path:
        """The file of the email with that id."""
        return self.folder / f"{provider_id}.eml"

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.folder.chmod(0o700)
        except OSError as error:
            raise ProviderRefusedError(
                f"the outbox folder {self.folder} cannot be used: {error.strerror}; set FLOWSTATE_OUTBOX_FOLDER"
            ) from error

    def _write_all(self, emails: Sequence[Email], key: str) -> tuple[Result, ...]:
        return tuple(self._write(_mail_id(key, position), email) for position, email in enumerate(emails))

    def _write(self, mail_id: str, email: Email) -> Result:
        try:
            content = self._compose(mail_id, email)
        except (ValueError, LookupError, MessageError) as error:
            return Rejected(f"this email cannot be written as RFC 5322 text ({type(error).__name__})")
        try:
            self._replace(self.path(mail_id), content)
        except OSError as error:
            raise ProviderRefusedError(f"the outbox folder cannot be written: {error.strerror}") from error
        return Accepted(provider_id=mail_id, provider=self.name)

    def _replace(self, path: Path, content: bytes) -> None:
        """Replace the file in one step: a reader of the folder never sees half an email."""
        handle, draft = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(draft).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(draft).unlink()
            raise

    def _compose(self, mail_id: str, email: Email) -> bytes:
        """The email as RFC 5322 text. Raises ValueError for what would change its structure."""
        head = [
            encode_mailbox("From", email.sender),
            encode_address("To", email.to),
            *([encode_mailbox("Reply-To", email.reply_to)] if email.reply_to else []),
            encode_header("Subject", email.subject),
            encode_header("Date", format_datetime(self._clock.now())),
            encode_header("Message-ID", f"<{mail_id}@outbox.invalid>"),
            encode_header("X-Flowstate-Kind", email.kind),
            *(encode_header(name, value) for name, value in email.headers.items()),
        ]
        body = EmailMessage(policy=SMTP)
        body.set_content(email.text)
        body.add_alternative(email.html, subtype="html")
        body.set_boundary(f"={mail_id}=")
        return b"".join(head) + body.as_bytes()


def encode_header(name: str, value: str) -> bytes:
    """One header field whose value is text and never syntax. Raises ValueError.

    Python's own header classes decode `=?…?=` in a value, so that a title could add fields: what looks like an encoded
    word is encoded itself. Text in ASCII is not folded, because an encoded link no longer works as a link.
    """
    if not HEADER_NAME.fullmatch(name) or not is_harmless_header(value):
        raise ValueError("a header field of more than one line")
    if not value.isascii() or ENCODED_WORD in value:
        value = Header(value, "utf-8", header_name=name).encode(linesep="\r\n")
    return f"{name}: {value}\r\n".encode("ascii")


def encode_address(name: str, address: str) -> bytes:
    """A header field with one bare address, in which no reader finds an encoded word. Raises ValueError."""
    if not BARE_ADDRESS.fullmatch(address) or ENCODED_WORD in address:
        raise ValueError("not a bare address in ASCII")
    return f"{name}: {address}\r\n".encode("ascii")


def encode_mailbox(field: str, text: str) -> bytes:
    """The `From` or the `Reply-To` field; only the name may be encoded. Raises ValueError."""
    mailbox = parse_mailbox(text)
    name = mailbox.name
    if not name.isascii() or ENCODED_WORD in name:
        encoded = Header(name, "utf-8", header_name=field).encode(linesep="\r\n")
        return f"{field}: {encoded} <{mailbox.address}>\r\n".encode("ascii")
    return f"{field}: {mailbox}\r\n".encode("ascii")


def _mail_id(key: str, position: int) -> str:
    """A safe file name for the email at that position of a request, whatever characters the key has."""
    return hashlib.sha256(f"{position}:{key}".encode("utf-8", "replace")).hexdigest()[:32]
