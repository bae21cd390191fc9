"""The operator's parts and the API over a real socket, with the parts that the daemon would build."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from aiohttp import ClientSession

from flowstate_daemon.base.clock import Clock
from flowstate_daemon.base.health import HealthRegistry
from flowstate_daemon.base.metrics import Metrics
from flowstate_daemon.config.loader import load
from flowstate_daemon.database.mail_history import MailHistory
from flowstate_daemon.database.mail_list import MailList
from flowstate_daemon.database.preferences import PreferenceStore
from flowstate_daemon.database.recipients import Suppressions
from flowstate_daemon.mail.kinds import KINDS
from flowstate_daemon.mail.render import Brand, Renderer
from flowstate_daemon.mail_producer import MailProducer
from flowstate_daemon.operations.operator import Operator, Recipients
from flowstate_daemon.queue.bull_queue import BullQueue
from flowstate_daemon.redis_client.connection import Connection
from flowstate_daemon.redis_client.keys import Keys
from flowstate_daemon.scheduler.manual_runs import ManualRuns
from flowstate_daemon.sending.rate_limiter import RateLimiter
from flowstate_daemon.web.api_v1.app import ApiV1
from flowstate_daemon.web.server import HttpServer
from flowstate_daemon.web.session import Sessions

OPERATE, OLD_OPERATE, READ = "o" * 40, "p" * 40, "r" * 40


def build_operator(
    connection: Connection,
    keys: Keys,
    clock: Clock,
    recipients: Recipients | None = None,
    schedules: ManualRuns | None = None,
) -> Operator:
    return Operator(
        connection,
        keys,
        clock,
        config=load({"FLOWSTATE_HTTP_API_TOKEN": OPERATE, "FLOWSTATE_REDIS_PASSWORD": "hunter2hunter2"}),
        health=HealthRegistry(clock),
        rate_limiter=RateLimiter(connection, keys, clock),
        renderer=Renderer(Brand("FlowState <hello@flowstate.example>", "FlowState", "https://app.example", "en")),
        producer=MailProducer(BullQueue(connection, keys, clock, token="t"), attempts=4, backoff_ms=2000),
        recipients=recipients,
        schedules=schedules,
    )


def build_recipients(pool: asyncpg.Pool, clock: Clock) -> Recipients:
    return Recipients(
        MailList(pool, clock), MailHistory(pool), Suppressions(pool, clock), PreferenceStore(pool, clock), pool
    )


class ApiClient:
    """A client of the API. It sends the token that may operate, unless given another one."""

    def __init__(self, client: ClientSession, api: ApiV1, operator: Operator, metrics: Metrics) -> None:
        self.client = client
        self.api = api
        self.operator = operator
        self.metrics = metrics

    @property
    def url(self) -> str:
        return str(self.client._base_url).rstrip("/")

    async def call(
        self, method: str, path: str, *, token: str = OPERATE, headers: Mapping[str, str] | None = None, **options: Any
    ) -> tuple[int, Any]:
        """The status and the document; None without one."""
        given = {"Authorization": f"Bearer {token}"} if headers is None else headers
        async with self.client.request(method, f"/api/v1{path}", headers=given, **options) as response:
            content = await response.read()
            is_error = response.status >= 400
            wanted = "application/problem+json" if is_error else "application/json"
            assert response.content_type == wanted or not content
            return response.status, await response.json(content_type=None) if content else None

    async def get(self, path: str, **options: Any) -> tuple[int, Any]:
        return await self.call("GET", path, **options)

    async def post(self, path: str, document: Any, **options: Any) -> tuple[int, Any]:
        return await self.call("POST", path, json=document, **options)


@asynccontextmanager
async def serve_api(operator: Operator) -> AsyncIterator[ApiClient]:
    """The API on a free port, and a client of it."""
    metrics = Metrics(tuple(KINDS))
    tokens = Sessions([(READ, "read"), (OPERATE, "operate"), (OLD_OPERATE, "operate")], operator.clock, secure=False)
    api = ApiV1(operator, tokens, metrics)
    server = HttpServer(api.routes(), host="127.0.0.1", port=0)
    await server.open()
    try:
        async with ClientSession(f"http://127.0.0.1:{server.bound_port}") as client:
            yield ApiClient(client, api, operator, metrics)
    finally:
        await server.close()
        await api.close()
