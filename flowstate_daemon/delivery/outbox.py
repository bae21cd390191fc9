"""A gateway that writes mails to a folder instead of sending them: for development and rehearsal.

Chosen by `daemon` when there is no provider key. Mails hold one-time codes, so folder and files are for their
owner's eyes only.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from email.errors import MessageError
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from pathlib import Path
from typing import ClassVar

import msgspec

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.errors import PermanentError, ProviderRefusedError
from flowstate_daemon.delivery.gateway import (
    BATCH_PATH,
    MAX_BATCHED_MAIL_SIZE,
    SINGLE_PATH,
    Delivery,
    Rejected,
    Result,
    size,
)
from flowstate_daemon.mail.message import Accepted, Email

# A link in a header is one long word; Python would fold it by encoding it, and then it is no link.
EML_POLICY = SMTP.clone(max_line_length=998)


class Outbox:
    """One `.eml` file per mail: a second delivery under the same key replaces the same files."""

    name: ClassVar[str] = "outbox"

    def __init__(self, folder: Path, *, clock: Clock | None = None) -> None:
        self.folder = folder
        self._clock = clock or Clock()

    async def open(self) -> None:
        await asyncio.to_thread(self._make_folder)

    async def close(self) -> None:
        """Nothing is held open between mails."""

    def can_batch(self, email: Email) -> bool:
        """As a provider would have it, so that a rehearsal takes the same ways."""
        return size(email) <= MAX_BATCHED_MAIL_SIZE

    def encode(self, email: Email) -> bytes:
        """The mail as JSON. Raises Final."""
        try:
            return msgspec.json.encode(email)
        except UnicodeEncodeError as error:
            raise PermanentError("this mail holds half a character (a lone surrogate)") from error

    def build_request(self, written: Sequence[bytes]) -> tuple[str, bytes]:
        """A list, under the paths that a provider would have."""
        return SINGLE_PATH if len(written) == 1 else BATCH_PATH, b"[%b]" % b",".join(written)

    async def send(self, path: str, body: bytes, idempotency_key: str, mails: int) -> Delivery:  # noqa: ARG002
        """Write the mails. Raises Final when the only one is at fault, LaneClosed when the folder is."""
        emails = msgspec.json.decode(body, type=list[Email])
        results = await asyncio.to_thread(self._write_all, emails, idempotency_key)
        if path == SINGLE_PATH and isinstance(results[0], Rejected):
            raise PermanentError(results[0].reason)
        return Delivery(results)

    def path(self, provider_id: str) -> Path:
        """Where the mail of that id lies."""
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
        return tuple(self._write(_mail_id(key, place), email) for place, email in enumerate(emails))

    def _write(self, digest: str, email: Email) -> Result:
        try:
            content = self._compose(digest, email)
        except (ValueError, LookupError, MessageError) as error:
            return Rejected(f"this mail cannot be written as RFC 5322 text ({type(error).__name__})")
        try:
            self._replace(self.path(digest), content)
        except OSError as error:
            raise ProviderRefusedError(f"the outbox folder cannot be written: {error.strerror}") from error
        return Accepted(provider_id=digest, provider=self.name)

    def _replace(self, path: Path, content: bytes) -> None:
        """All or nothing: whoever reads the folder sees whole mails only."""
        handle, draft = tempfile.mkstemp(dir=self.folder, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            Path(draft).replace(path)
        except BaseException:
            with suppress(OSError):
                Path(draft).unlink()
            raise

    def _compose(self, digest: str, email: Email) -> bytes:
        message = EmailMessage(policy=EML_POLICY)
        message["From"] = email.sender
        message["To"] = email.to
        message["Subject"] = email.subject
        message["Date"] = format_datetime(self._clock.now())
        message["Message-ID"] = f"<{digest}@outbox.invalid>"
        message["X-Flowstate-Kind"] = email.kind
        for name, value in email.headers.items():
            message[name] = value
        message.set_content(email.text)
        message.add_alternative(email.html, subtype="html")
        message.set_boundary(f"={digest}=")
        return message.as_bytes()


def _mail_id(key: str, place: int) -> str:
    """A file name for the mail at that place of a request, whatever characters the key has."""
    return hashlib.sha256(f"{place}:{key}".encode("utf-8", "replace")).hexdigest()[:32]
