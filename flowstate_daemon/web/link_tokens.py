"""The token at the end of a recipient's link, also after a mail program has changed the link.

Links are broken over several lines, cut off, or get a bracket at their end. What is not a token decodes to an error,
which the pages show in words.
"""

from __future__ import annotations

import re

from aiohttp import web

TOKEN = re.compile(r"[A-Za-z0-9_-]+")
SOFT_BREAK = re.compile(r"=?\s+")  # how mail programs break long lines


def token_path(prefix: str) -> str:
    """The path of a route for links that begin with `prefix`, whatever follows."""
    return f"{prefix}{{token:(?s:.)*}}"


def find_token(request: web.Request) -> str:
    """The token without what mail programs add to a link; empty if there is none."""
    token = TOKEN.search(SOFT_BREAK.sub("", request.match_info["token"]))
    return token[0] if token else ""


def link_beside(request: web.Request, prefix: str, path: str) -> str:
    """A relative link from a page below `prefix` to the one below `path` with the same token.

    Relative, because a proxy may serve the daemon below a path of its own.
    """
    depth = request.rel_url.raw_path.partition(prefix)[2].count("/")
    return f"{'../' * depth}..{path}{find_token(request)}"
