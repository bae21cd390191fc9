"""Links by which people leave a kind of mail: made for the renderer, read by the web. Pure.

A link carries its person, sealed with AES-SIV (RFC 5297) under keys derived from a secret. Sealed, because links end
in the logs of proxies and must tell no address there; the link and not a table, because it has to work for 400 days
whatever a database has forgotten; SIV, because it needs no nonce: the same mail is the same bytes at every try.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from flowstate_daemon.base.errors import FlowstateError
from flowstate_daemon.mail.kinds import KINDS, MailRequest

PATH = "/unsubscribe/"
VERSION = b"\x01"
PURPOSE = b"flowstate-daemon unsubscribe link"
KEY_BYTES = 64
MAX_TOKEN_LENGTH = 1_024
MIN_SECRET_LENGTH = 32
LIFETIME_DAYS = 400
DAY_MS = 86_400_000


class InvalidLinkError(FlowstateError):
    """A link that opens nothing."""


class ForgedLinkError(InvalidLinkError):
    """Not made by us, cut off, or made under a secret that is used no more."""


class ExpiredLinkError(InvalidLinkError):
    """Ours, but too old."""


@dataclass(frozen=True, slots=True)
class UnsubscribeToken:
    """What a link says: who leaves which kind of mail. `locale` is the language of the mail it stood in."""

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
    """Seals tickets under the first secret and opens what any of the secrets has sealed."""

    def __init__(self, secrets: Sequence[str], *, lifetime_days: int | None = LIFETIME_DAYS) -> None:
        """To change the secret, put the new one first and keep the old one behind it while old links shall live."""
        if not secrets or any(len(secret) < MIN_SECRET_LENGTH for secret in secrets):
            raise ValueError(f"a secret for links of at least {MIN_SECRET_LENGTH} characters is needed")
        self._ciphers = tuple(AESSIV(_key(secret)) for secret in secrets)
        self._lifetime_ms = None if lifetime_days is None else lifetime_days * DAY_MS

    def encode(self, ticket: UnsubscribeToken) -> str:
        """A token of letters, digits, `-` and `_`; the same for the same ticket."""
        claims = TokenClaims(ticket.issued_ms // 1000, ticket.kind, ticket.locale, ticket.address)
        stored = self._ciphers[0].encrypt(msgspec.msgpack.encode(claims), [VERSION])
        return _encode_base64(VERSION + stored)

    def decode(self, token: str, now_ms: int) -> UnsubscribeToken:
        """Read a token. Raises LinkForged or LinkExpired."""
        claims = CLAIMS.decode(self._opened(_read(token)))
        issued_ms = claims.issued_s * 1000
        if self._lifetime_ms is not None and now_ms - issued_ms > self._lifetime_ms:
            raise ExpiredLinkError("this link is too old")
        return UnsubscribeToken(claims.address, claims.kind, issued_ms, claims.locale)

    def _opened(self, stored: bytes) -> bytes:
        """What is inside; each cipher compares its tag in constant time."""
        if stored[:1] == VERSION:
            for cipher in self._ciphers:
                try:
                    return cipher.decrypt(stored[1:], [VERSION])
                except InvalidTag:
                    continue
        raise ForgedLinkError("this link was not made here")


@dataclass(frozen=True, slots=True)
class UnsubscribeLinks:
    """Makes the links of mails; `public_url` is where the daemon's web is seen from outside."""

    public_url: str
    store: LinkTokenCodec = field(repr=False)

    def link(self, request: MailRequest, *, issued_ms: int, locale: str) -> str | None:
        """The address to leave by, or None for mails that nobody can leave. `issued_ms` is the job's timestamp."""
        if not KINDS[request.kind].unsubscribable:
            return None
        token = self.store.encode(UnsubscribeToken(request.to, request.kind, issued_ms, locale))
        return f"{self.public_url.rstrip('/')}{PATH}{token}"


def list_unsubscribe_headers(link: str | None) -> dict[str, str]:
    """The header fields that let a mail program show its own button (RFC 2369, RFC 8058)."""
    if link is None:
        return {}
    return {"List-Unsubscribe": f"<{link}>", "List-Unsubscribe-Post": "List-Unsubscribe=One-Click"}


def _key(secret: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=PURPOSE).derive(secret.encode())


def _encode_base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode("ascii")


def _read(token: str) -> bytes:
    """The bytes of a token that is spelt as we spell it: base64 has several spellings for the same bytes."""
    try:
        content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)) if len(token) <= MAX_TOKEN_LENGTH else b""
    except (ValueError, binascii.Error):
        content = b""
    if not content or _encode_base64(content) != token:
        raise ForgedLinkError("this link is not complete")
    return content
