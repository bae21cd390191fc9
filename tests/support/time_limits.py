"""A coroutine test that hangs is a failing test.

pytest-timeout raises its error in a signal handler, which an event loop of uvloop that waits for I/O never runs. So a
coroutine gets a limit of its own, whose traceback shows where it waited. Its fixtures, and what ignores the limit, are
ended with the process by pytest-timeout's other method, some seconds later; pytest-xdist reports the test and goes on.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any

import pytest

GRACE_S = 20.0  # for a coroutine to end after its limit, and for the fixtures


def limit_time(item: pytest.Function) -> None:
    """Give a coroutine test its limit: that of its mark `timeout`, or else of the setting."""
    if item.get_closest_marker("asyncio") is None:
        return
    marker = item.get_closest_marker("timeout")
    limit_s = float(marker.args[0] if marker is not None else item.config.getini("timeout"))
    item.add_marker(pytest.mark.timeout(limit_s + GRACE_S, method="thread"), append=False)
    if inspect.iscoroutinefunction(item.obj):
        item.obj = _limited(item.obj, limit_s)


def _limited(test: Callable[..., Awaitable[None]], limit_s: float) -> Callable[..., Awaitable[None]]:
    @wraps(test)
    async def limited(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(limit_s):
            await test(*args, **kwargs)

    return limited
