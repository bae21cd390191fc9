"""Sessions of the operator's pages: login with an API token, a signed cookie, a CSRF token, allowed host names.

The cookie holds no token: it names the rights and the end of the session, authenticated by a key derived from the
token that was used. Rotating that token ends its sessions. Nothing is stored.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from flowstate_daemon.base.clock import Clock

Rights: TypeAlias = Literal["read", "operate"]

COOKIE = "flowstate_session"
SESSION_S = 12 * 3600
LOGIN_LINK_S = 600
REVEAL_COOKIE, REVEAL_S = "flowstate_reveal", 600
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
NONCE_BYTES = 16


class SessionData(msgspec.Struct, frozen=True, array_like=True):
    """The content of a cookie or of a login link. `ends_at` is Unix s."""

    purpose: Literal["session", "link", "reveal"]
    rights: Rights
    ends_at: int
    nonce: str


@dataclass(frozen=True, slots=True)
class Session:
    """One operator's session; `actor` stands for the operator in the audit, `csrf` must be in every form."""

    rights: Rights
    actor: str
    csrf: str
    nonce: str
    key: bytes = field(repr=False)

    @property
    def may_operate(self) -> bool:
        return self.rights == "operate"


class Sessions:
    """Opens and checks sessions."""

    def __init__(
        self, tokens: Sequence[tuple[str, Rights]], clock: Clock, *, secure: bool, hosts: Iterable[str] = ()
    ) -> None:
        """`secure` cookies need HTTPS. `hosts` are the host names of this server besides loopback."""
        self._keys = [(derive_key(token), rights) for token, rights in tokens]
        self._tokens = [(token.encode(), rights) for token, rights in tokens]
        self._clock = clock
        self._secure = secure
        self._hosts = LOOPBACK | {host.lower() for host in hosts if host}
        self._used_links: dict[str, int] = {}

    @property
    def has_tokens(self) -> bool:
        """Whether there is a token to log in or use the API with."""
        return bool(self._tokens)

    def allows_host(self, request: web.Request) -> bool:
        """Whether the Host header names this server. Another name is a page that has been rebound to our address."""
        try:
            name = urlsplit(f"//{request.headers.get('Host', '')}").hostname
        except ValueError:
            return False
        return name is not None and name.lower() in self._hosts

    def allows_origin(self, request: web.Request) -> bool:
        """Whether a form comes from a page of this server. Programs and old browsers send no Origin.

        A page on another port of this machine is the same site for cookies, so the port counts too; behind a proxy,
        the public name does.
        """
        origin = request.headers.get("Origin")
        if origin is None:
            return True
        try:
            parts = urlsplit(origin)
            name = (parts.hostname or "").lower()
        except ValueError:
            return False
        is_same = bool(parts.netloc) and parts.netloc.lower() == request.headers.get("Host", "").lower()
        return is_same or name in self._hosts - LOOPBACK

    def rights_of(self, token: str) -> Rights | None:
        """The rights of an API token; every token is compared, so that the time does not reveal which is close."""
        given = token.strip().encode("utf-8", "surrogateescape")
        found: Rights | None = None
        for known, rights in self._tokens:
            if hmac.compare_digest(given, known):
                found = rights
        return found

    def log_in(self, response: web.StreamResponse, token: str) -> bool:
        """Set the cookie of a new session; False for an invalid token."""
        rights = self.rights_of(token)
        if rights is None:
            return False
        self._set_cookie(response, derive_key(token.strip()), rights)
        return True

    def login_link(self, token: str) -> str:
        """The query of a link that logs in once, within LOGIN_LINK_S: for a page that `dev` opens by itself."""
        rights = self.rights_of(token)
        if rights is None:
            raise ValueError("not a token of this server")
        ends_at = self._clock.now_ms() // 1000 + LOGIN_LINK_S
        return sign(derive_key(token), SessionData("link", rights, ends_at, secrets.token_hex(NONCE_BYTES)))

    def log_in_by_link(self, response: web.StreamResponse, link: str) -> bool:
        """Set the cookie for a login link that has not been used yet."""
        now = self._clock.now_ms() // 1000
        self._used_links = {nonce: ends_at for nonce, ends_at in self._used_links.items() if ends_at > now}
        for key, rights in self._keys:
            data = verify(key, link, now)
            if data is not None and data.purpose == "link" and data.nonce not in self._used_links:
                self._used_links[data.nonce] = data.ends_at
                self._set_cookie(response, key, rights)
                return True
        return False

    def log_out(self, response: web.StreamResponse) -> None:
        response.del_cookie(COOKIE, path="/", secure=self._secure, httponly=True, samesite="Strict")

    def find(self, request: web.Request) -> Session | None:
        """The session of a request, or None."""
        cookie = request.cookies.get(COOKIE, "")
        now = self._clock.now_ms() // 1000
        for key, rights in self._keys:
            data = verify(key, cookie, now)
            if data is not None and data.purpose == "session":
                csrf = hmac.new(key, b"csrf" + data.nonce.encode(), hashlib.sha256).hexdigest()
                return Session(rights, f"page session {data.nonce[:8]}", csrf, data.nonce, key)
        return None

    def reveal(self, response: web.StreamResponse, session: Session) -> None:
        """Show whole addresses to this session for REVEAL_S."""
        ends_at = self._clock.now_ms() // 1000 + REVEAL_S
        value = sign(session.key, SessionData("reveal", session.rights, ends_at, session.nonce))
        response.set_cookie(
            REVEAL_COOKIE, value, max_age=REVEAL_S, path="/", secure=self._secure, httponly=True, samesite="Strict"
        )

    def conceal(self, response: web.StreamResponse) -> None:
        response.del_cookie(REVEAL_COOKIE, path="/", secure=self._secure, httponly=True, samesite="Strict")

    def reveals(self, request: web.Request, session: Session) -> bool:
        """Whether this session has asked for whole addresses."""
        data = verify(session.key, request.cookies.get(REVEAL_COOKIE, ""), self._clock.now_ms() // 1000)
        return data is not None and data.purpose == "reveal" and data.nonce == session.nonce

    def _set_cookie(self, response: web.StreamResponse, key: bytes, rights: Rights) -> None:
        ends_at = self._clock.now_ms() // 1000 + SESSION_S
        value = sign(key, SessionData("session", rights, ends_at, secrets.token_hex(NONCE_BYTES)))
        response.set_cookie(
            COOKIE, value, max_age=SESSION_S, path="/", secure=self._secure, httponly=True, samesite="Strict"
        )


def derive_key(token: str) -> bytes:
    """The key of the sessions that a token has opened."""
    return hashlib.sha256(b"flowstate session\0" + token.encode("utf-8", "surrogateescape")).digest()


def sign(key: bytes, data: SessionData) -> str:
    """The data and its authentication, as URL-safe text."""
    text = msgspec.json.encode(data)
    return _encode(text + hmac.new(key, text, hashlib.sha256).digest())


def verify(key: bytes, text: str, now: int) -> SessionData | None:
    """The data of `sign`, if it was made with this key and has not ended at `now` (Unix s)."""
    try:
        raw = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, UnicodeEncodeError):
        return None
    content, given = raw[:-32], raw[-32:]
    if not hmac.compare_digest(hmac.new(key, content, hashlib.sha256).digest(), given):
        return None
    try:
        data = msgspec.json.decode(content, type=SessionData)
    except msgspec.DecodeError:
        return None
    return data if data.ends_at > now else None


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
