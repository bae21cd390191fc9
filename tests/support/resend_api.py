"""Resend's API without HTTP: admit requests, remember keys, validate, accept, and record what was accepted.

Base of `fake_resend.FakeResend`, which adds the HTTP server and scripted answers.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import uuid4

import msgspec

from flowstate_daemon.base.clock import Clock
from tests.support.resend_rules import MAX_BATCH_SIZE, KeyMemory, Quotas, RateWindow, RequestRejectedError, check_mail

JSON = {"content-type": "application/json; charset=utf-8"}
LONG_BODY_BYTES = 65_536
CHUNK_SIZE = 10
API_KEY = "re_Fake0000_abcdefghijklmnop"


@dataclass(frozen=True, slots=True)
class AcceptedMail:
    """An email that the provider would deliver. `at` is in Unix ms; its request arrived at `came`."""

    id: str
    key: str | None
    to: tuple[str, ...]
    subject: str
    body: Mapping[str, Any]
    at: int
    came: int = 0


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """A request; `body` is the raw text."""

    method: str
    path: str
    key: str | None
    headers: Mapping[str, str]
    body: bytes
    came: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """A scripted answer to a request, instead of or after the API's own processing.

    Without a `status` the API processes and answers the request; `headers`, delays and losses still apply. With
    `accept` it processes the request first, and the scripted answer is sent all the same. `cut` breaks the connection
    in the middle of the body, `drop` before the first byte.
    """

    status: int | None = None
    body: bytes | str | dict[str, Any] | list[Any] = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    accept: bool = False
    cut: bool = False
    drop: bool = False

    @property
    def content(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return self.body.encode() if isinstance(self.body, str) else msgspec.json.encode(self.body)


def error(status: int, name: str, message: str = "scripted", **headers: str) -> Answer:
    """An error in the API's own shape: `error(429, "rate_limit_exceeded", retry_after="2")`."""
    body = {"statusCode": status, "name": name, "message": message}
    return Answer(status, body, JSON | {header.replace("_", "-"): value for header, value in headers.items()})


class ResendApi:
    """The API's state and its switches, which may be changed while it runs."""

    def __init__(self, *, rate: int | None = None, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.api_key = API_KEY
        self.send_only = False
        self.latency_s = 0.0
        self.verified: set[str] | None = None
        self.refuse_dummies = True
        self.permissive_known = True
        self.rate = RateWindow(self.clock, rate)
        self.quotas = Quotas(self.clock)
        self.memory = KeyMemory(self.clock)
        self.accepted: list[AcceptedMail] = []
        self.repeated_keys = 0
        self.journal: int | None = None
        self._gate = asyncio.Event()
        self._gate.set()

    def hold(self) -> None:
        """Keep requests in progress until `release`."""
        self._gate.clear()

    def release(self) -> None:
        self._gate.set()

    def duplicates(self) -> list[AcceptedMail]:
        """Emails sent twice: with the recipients and the content of an earlier one, whatever the key."""
        seen: set[bytes] = set()
        twice = []
        for mail in self.accepted:
            content = msgspec.json.encode([mail.to, mail.subject, mail.body.get("html"), mail.body.get("text")])
            if content in seen:
                twice.append(mail)
            seen.add(content)
        return twice

    async def work(self, incoming: ReceivedRequest, delay_s: float) -> Answer:
        headers: dict[str, str] = {}
        try:
            self._admit(incoming, headers)
            content = await self._route(incoming, headers, self.latency_s + delay_s)
        except RequestRejectedError as refusal:
            if refusal.name == "1010":  # the edge answers before the API does
                return Answer(403, refusal.message, {"content-type": "text/plain; charset=UTF-8"})
            return Answer(refusal.status, refusal.body, JSON | headers | refusal.headers)
        return Answer(200, content, JSON | headers)

    def _admit(self, incoming: ReceivedRequest, headers: dict[str, str]) -> None:
        if not incoming.headers.get("user-agent"):
            raise RequestRejectedError(403, "1010", "error code: 1010")
        scheme, _, key = incoming.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer" or key in ("", "None"):
            raise RequestRejectedError(401, "missing_api_key", "Missing API key in the authorization header.")
        if key != self.api_key:
            raise RequestRejectedError(403, "invalid_api_key", "API key is invalid.")
        headers |= self.rate.admit()

    async def _route(self, incoming: ReceivedRequest, headers: dict[str, str], delay_s: float) -> bytes:
        match incoming.method, incoming.path:
            case "POST", "/emails" | "/emails/batch":
                return await self._once(incoming, headers, delay_s)
            case "GET", "/domains":
                return self._domains()
            case _, "/emails" | "/emails/batch" | "/domains":
                raise RequestRejectedError(405, "method_not_allowed", "Method is not allowed for the requested path.")
        raise RequestRejectedError(404, "not_found", "The requested endpoint does not exist.")

    async def _once(self, incoming: ReceivedRequest, headers: dict[str, str], delay_s: float) -> bytes:
        fingerprint = self.memory.print_of(incoming.path, incoming.body)
        known = self.memory.recall(incoming.key, fingerprint)
        if known is not None:
            self.repeated_keys += 1
            return known
        if incoming.key is not None:
            self.memory.in_progress.add(incoming.key)
        try:
            if delay_s:
                await asyncio.sleep(delay_s)
            await self._gate.wait()
            answer = msgspec.json.encode(await self._accept(incoming, headers))
            self.memory.keep(incoming.key, fingerprint, answer)
            return answer
        finally:
            self.memory.in_progress.discard(incoming.key or "")

    async def _accept(self, incoming: ReceivedRequest, headers: dict[str, str]) -> dict[str, Any]:
        if not incoming.headers.get("content-type", "").startswith("application/json"):
            raise RequestRejectedError(400, "validation_error", "The content type must be application/json.")
        try:
            content = await _decoded(incoming.body)
        except msgspec.DecodeError as problem:
            raise RequestRejectedError(400, "validation_error", "The body is not valid JSON.") from problem
        if incoming.path == "/emails":
            recipients = self._check(content)
            headers |= self.quotas.spend(len(recipients))
            return {"id": self._take([(content, recipients)], incoming)[0]}
        permissive = self.permissive_known and incoming.headers.get("x-batch-validation") == "permissive"
        return await self._accept_batch(content, incoming, headers, permissive=permissive)

    async def _accept_batch(
        self, mails: object, incoming: ReceivedRequest, headers: dict[str, str], *, permissive: bool
    ) -> dict[str, Any]:
        if not isinstance(mails, list) or not 1 <= len(mails) <= MAX_BATCH_SIZE:
            raise RequestRejectedError(422, "validation_error", f"The batch must hold 1 to {MAX_BATCH_SIZE} emails.")
        errors, good = [], []
        for index, mail in enumerate(mails):
            try:
                good.append((mail, self._check(mail, batch=True)))
            except RequestRejectedError as refusal:
                if not permissive or refusal.status == 403:
                    raise
                errors.append({"index": index, "message": refusal.message})
            await _yield(index)
        headers |= self.quotas.spend(sum(len(recipients) for _, recipients in good))
        taken = [{"id": number} for number in self._take(good, incoming)]
        return {"data": taken, "errors": errors} if permissive else {"data": taken}

    def _check(self, mail: object, *, batch: bool = False) -> list[str]:
        return check_mail(mail, verified=self.verified, refuse_dummies=self.refuse_dummies, batch=batch)

    def _take(self, mails: list[tuple[dict[str, Any], list[str]]], incoming: ReceivedRequest) -> list[str]:
        now_ms = self.clock.now_ms()
        taken = [
            AcceptedMail(str(uuid4()), incoming.key, tuple(recipients), mail["subject"], mail, now_ms, incoming.came)
            for mail, recipients in mails
        ]
        if self.journal is None:
            self.accepted += taken
        else:  # a hundred thousand bodies in memory would distort a measurement
            lines = [msgspec.json.encode(replace(mail, body={})) + b"\n" for mail in taken]
            os.write(self.journal, b"".join(lines))
        return [mail.id for mail in taken]

    def _domains(self) -> bytes:
        if self.send_only:
            raise RequestRejectedError(401, "restricted_api_key", "This API key is restricted to only send emails")
        names = sorted(self.verified or ())
        rows = [{"id": str(uuid4()), "name": name, "status": "verified", "region": "eu-west-1"} for name in names]
        return msgspec.json.encode({"object": "list", "has_more": False, "data": rows})


async def _decoded(body: bytes) -> Any:
    """Decode JSON; a long batch is decoded email by email, so that other requests are served in between."""
    if len(body) < LONG_BODY_BYTES or not body.startswith(b"["):
        return msgspec.json.decode(body)
    mails = []
    for index, mail in enumerate(msgspec.json.decode(body, type=list[msgspec.Raw])):
        mails.append(msgspec.json.decode(mail))
        await _yield(index)
    return mails


async def _yield(index: int) -> None:
    """Yield to the event loop after every few emails, as a real provider processes requests in parallel."""
    if index % CHUNK_SIZE == CHUNK_SIZE - 1:
        await asyncio.sleep(0)
