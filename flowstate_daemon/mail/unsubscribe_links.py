"""Recipients' links to their pages, unsubscribe and preferences: encoded for the renderer, decoded by the web server.

Pure. A link contains the recipient and the kind, encrypted with AES-SIV (RFC 5297) under keys derived from a secret.
Encrypted, because proxies log links and the logs must not contain addresses. In the link and not in a table, because a
link must work for 400 days even if the database loses data. SIV, because it needs no nonce, so that every attempt of an
email has the same bytes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from flowstate_daemon.base.errors import FlowstateError
from flowstate_daemon.mail.kinds import MailRequest

PATH = "/unsubscribe/"
PREFERENCES_PATH = "/preferences/"
VERSION = b"\x01"
PURPOSE = b"flowstate-daemon unsubscribe link"
KEY_BYTES = 64
MAX_TOKEN_LENGTH = 1_024
MIN_SECRET_LENGTH = 32
LIFETIME_DAYS = 400
DAY_MS = 86_400_000
MAX_JOB_AGE_MS = 30 * DAY_MS


class InvalidLinkError(FlowstateError):
    """The link cannot be used."""


class ForgedLinkError(InvalidLinkError):
    """The link is not ours, is truncated, or was encrypted with a secret that is no longer configured."""


class ExpiredLinkError(InvalidLinkError):
    """The link is valid but too old."""


@dataclass(frozen=True, slots=True)
class UnsubscribeToken:
    """The content of a link: whose it is, and the kind and the language of the email that it came with."""

    address: str = field(repr=False)
    kind: str
    issued_ms: int  # to the second
    locale: str


class TokenClaims(msgspec.Struct, frozen=True, array_like=True):
    issued_s: int
    kind: str
    locale: str
    address: str


CLAIMS = msgspec.msgpack.Decoder(TokenClaims)


class LinkTokenCodec:
    """Encrypts tokens with the first secret and decrypts those of any secret."""

    def __init__(self, secrets: Sequence[str], *, lifetime_days: int | None = LIFETIME_DAYS) -> None:
        """To change the secret, put the new one first and keep the old one after it while old links must work."""
        if not secrets or any(len(secret) < MIN_SECRET_LENGTH for secret in secrets):
            raise ValueError(f"a secret for links of at least {MIN_SECRET_LENGTH} characters is needed")
        # Imported here because it takes 6 MB, which a daemon without a link secret does not need.
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # noqa: PLC0415
        from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF  # noqa: PLC0415

        def derive_key(secret: str) -> bytes:
            return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=PURPOSE).derive(secret.encode())

        self._ciphers = tuple(AESSIV(derive_key(secret)) for secret in secrets)
        self._invalid_tag = InvalidTag
        self._lifetime_ms = None if lifetime_days is None else lifetime_days * DAY_MS

    def encode(self, content: UnsubscribeToken) -> str:
        """A token of letters, digits, `-` and `_`; the same for the same content."""
        claims = TokenClaims(content.issued_ms // 1000, content.kind, content.locale, content.address)
        ciphertext = self._ciphers[0].encrypt(msgspec.msgpack.encode(claims), [VERSION])
        return _encode_base64(VERSION + ciphertext)

    def decode(self, token: str, now_ms: int) -> UnsubscribeToken:
        """Decrypt a token. Raises ForgedLinkError or ExpiredLinkError."""
        claims = CLAIMS.decode(self._decrypt(_decode_base64(token)))
        issued_ms = claims.issued_s * 1000
        if self._lifetime_ms is not None and now_ms - issued_ms > self._lifetime_ms:
            raise ExpiredLinkError("this link is too old")
        return UnsubscribeToken(claims.address, claims.kind, issued_ms, claims.locale)

    def _decrypt(self, ciphertext: bytes) -> bytes:
        """The decrypted claims; each cipher compares its tag in constant time."""
        if ciphertext[:1] == VERSION:
            for cipher in self._ciphers:
                try:
                    return cipher.decrypt(ciphertext[1:], [VERSION])
                except self._invalid_tag:
                    continue
        raise ForgedLinkError("this link was not made here")


@dataclass(frozen=True, slots=True)
class UnsubscribeLinks:
    """Builds the links in emails; `public_url` is the public URL of the daemon's HTTP server."""

    public_url: str
    codec: LinkTokenCodec = field(repr=False)

    def links(self, request: MailRequest, *, issued_ms: int, locale: str) -> tuple[str | None, str]:
        """The links of an email to the unsubscribe page, None if its kind has none, and to the preference page.

        Both have the same token, because both pages are for the owner of the mailbox. `issued_ms` is the job's
        timestamp.
        """
        token = self.codec.encode(UnsubscribeToken(request.to, request.kind, issued_ms, locale))
        root = self.public_url.rstrip("/")
        unsubscribe = f"{root}{PATH}{token}" if request.spec.unsubscribable else None
        return unsubscribe, f"{root}{PREFERENCES_PATH}{token}"


def link_issue_time(created_ms: int, now_ms: int) -> int:
    """From when the lifetime of a link counts: from the job's creation, so that each attempt has the same link.

    The start of today instead for a job whose time is unknown, long past or in the future: its link would be dead on
    arrival, or would never expire.
    """
    recent = now_ms - MAX_JOB_AGE_MS <= created_ms <= now_ms + DAY_MS
    return created_ms if recent else now_ms - now_ms % DAY_MS


def list_unsubscribe_headers(link: str | None) -> dict[str, str]:
    """The header fields that make mail clients show an unsubscribe button (RFC 2369, RFC 8058)."""
    if link is None:
        return {}
    return {"List-Unsubscribe": f"<{link}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}


def _encode_base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def _decode_base64(token: str) -> bytes:
    """The bytes of a token; rejects other base64 spellings of the same bytes."""
    try:
        content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)) if len(token) <= MAX_TOKEN_LENGTH else b""
    except (ValueError, binascii.Error):
        content = b""
    if not content or _encode_base64(content) != token:
        raise ForgedLinkError("this link is not complete")
    return content
