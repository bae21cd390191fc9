"""The HTTP proxy for one URL, from the variables that other programs honour. Pure.

As in curl: `https_proxy`, `http_proxy` and `all_proxy` in lower or upper case, lower case first; `no_proxy` lists
host names with everything below them, addresses, networks, each with an optional port, or `*`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}


def find_proxy(url: str, environ: Mapping[str, str]) -> tuple[str, str] | None:
    """The variable that applies to a URL, and the proxy in it; None without one, or when NO_PROXY names the host."""
    parts = urlsplit(url)
    host, port = (parts.hostname or "").rstrip("."), parts.port or DEFAULT_PORTS.get(parts.scheme, 0)
    for name in (f"{parts.scheme}_proxy", f"{parts.scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"):
        if value := environ.get(name, "").strip():
            if bypasses(host, port, environ.get("no_proxy") or environ.get("NO_PROXY") or ""):
                return None
            return name, value if "://" in value else f"http://{value}"
    return None


def bypasses(host: str, port: int, no_proxy: str) -> bool:
    """Whether a value of NO_PROXY names the host."""
    return any(_names(entry.lower(), host.lower(), port) for entry in re.split(r"[\s,]+", no_proxy) if entry)


def _names(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    name, _, number = entry.rpartition(":")
    if name and number.isdecimal() and (":" not in name or name.endswith("]")):
        if int(number) != port:
            return False
        entry = name
    entry = entry.strip("[]").removeprefix("*").strip(".")
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:  # one of them is a name
        return bool(entry) and (host == entry or host.endswith(f".{entry}"))
