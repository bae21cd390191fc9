"""Keeps optional parts of libraries out of memory: the daemon runs for weeks on small machines.

Measured on an idle daemon: `rich`, which structlog imports to colour tracebacks, has 80 modules and 4 MB; `requests`,
which the provider's SDK imports for its synchronous client, has 90 modules and 5 MB.
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
def without(name: str) -> Iterator[None]:
    """Make `import name` fail inside the block, as if it were not installed; afterwards it can be imported."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
