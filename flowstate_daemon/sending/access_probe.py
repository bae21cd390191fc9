"""Probes the provider while no email waits: without it the daemon would stay not ready until then.

The probe asks the provider for something that sends nothing. It cannot see every refusal: only if it was refused
before, its success shows that the cause is gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from flowstate_daemon.base.errors import FlowstateError, ProviderRefusedError, ProviderUnreachableError, RetryableError
from flowstate_daemon.delivery.gateway import Gateway
from flowstate_daemon.sending.send_gate import SendGate


class AccessProbe:
    """At most one probe at a time, in a task of its own; `finished` is called when its result is recorded."""

    def __init__(self, gateway: Gateway, gate: SendGate, finished: Callable[[], None]) -> None:
        self._gateway = gateway
        self._gate = gate
        self._finished = finished
        self._refusal: str | None = None  # the refusal of the gate during which a probe was refused too
        self._task: asyncio.Task[None] | None = None

    def due(self) -> bool:
        """Whether a probe should be sent now."""
        return self._task is None and not self._gate.is_open and self._gate.next_probe_s() <= 0

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="access-probe")
        self._task.add_done_callback(self._done)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        refusal = self._gate.refusal
        self._gate.postpone_idle_probe()
        try:
            await self._gateway.check_access()
        except ProviderRefusedError:
            self._refusal = refusal
            self._gate.circuit_breaker.record_success()
        except (RetryableError, ProviderUnreachableError) as error:
            if self._gate.circuit_breaker.is_open:
                self._gate.circuit_breaker.record_failure(error.reason, is_probe=True)
        except FlowstateError:
            return
        else:
            self._gate.circuit_breaker.record_success()
            if refusal is not None and self._refusal == refusal == self._gate.refusal:
                self._gate.record_accepted(sent=False)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._task = None
        self._finished()
        if not task.cancelled():
            task.result()  # a bug ends up in the log of the event loop
