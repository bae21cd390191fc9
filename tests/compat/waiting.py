"""Waiting for conditions, with a deadline. Tests wait for what they claim, never for a while."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

WITHIN_S = 10.0
LOOK_S = 0.02


async def eventually(
    look: Callable[[], Awaitable[T]], wanted: Any = None, *, within_s: float = WITHIN_S
) -> T:
    """Look until the answer is true (or equals `wanted`); fail with the last answer after `within_s`."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        found = await look()
        if (found == wanted) if wanted is not None else found:
            return found
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"not within {within_s} s; last seen: {found!r}, wanted: {wanted!r}")
        await asyncio.sleep(LOOK_S)
