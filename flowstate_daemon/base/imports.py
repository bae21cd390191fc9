"""Keeps optional parts of libraries out of memory: the daemon runs for weeks on small machines.

Measured on an idle daemon: `rich`, which structlog imports to colour tracebacks, has 80 modules and 4 MB; `requests`,
which the provider's SDK imports for its synchronous client, has 90 modules and 5 MB. Where they are installed, the SDK
of OpenTelemetry, which the Redis client imports for its own metrics, has 70 modules and 3 MB, and takes 35 ms;
`greenlet`, which structlog imports, has 1 MB.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


@contextmanager
def deferred(name: str) -> Iterator[None]:
    """Let `import name` inside the block succeed without loading it; the first use of one of its members loads it.

    Does nothing if it has been loaded already. Other modules that import it after the block are not affected.
    """
    if name in sys.modules:
        yield
        return
    module = ModuleType(name)

    def load_member(member: str) -> Any:
        return getattr(import_module(name), member)

    module.__dict__["__getattr__"] = load_member  # PEP 562
    sys.modules[name] = module
    try:
        yield
    finally:
        del sys.modules[name]


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Make imports of these modules fail inside the block, as if they were not installed.

    Afterwards they can be imported. Does nothing about those that have been loaded already.
    """
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
