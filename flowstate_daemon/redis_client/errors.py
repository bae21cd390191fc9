"""The errors of Redis, translated: an outage, a wrong configuration, or a command that Redis answered with an error.

An outage is what time or an operator can end: the network, load, a lacking permission, another program at the address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions as refused

from flowstate_daemon.base.errors import ConfigError, KeyTypeError, StoreUnavailableError

# Errors after which a retry helps, which redis-py reports as plain ResponseError.
TRANSIENT_PREFIXES = (
    "NOREPLICAS", "BUSY ", "TRYAGAIN", "UNKILLABLE", "LOADING", "MISCONF", "NOAUTH", "WRONGPASS",
    "DB index",  # out of range: the server has fewer databases than in REDIS_URL
    "UNBLOCKED",  # a primary that becomes a replica ends all blocking pops with it
)  # fmt: skip
CROSS_SLOT_MESSAGE = (
    "FLOWSTATE_QUEUE_PREFIX: this Redis is a cluster, and with this prefix the keys of the queue are on several nodes; "
    "put braces around it, like {bull}, here and in the backend's Bull"
)
# Errors that TLS, or the lack of it, causes.
TLS_HINTS = (
    ("CERTIFICATE_VERIFY_FAILED", "its certificate authority is not trusted: set FLOWSTATE_REDIS_CA_FILE"),
    ("WRONG_VERSION_NUMBER", "this port does not use TLS: begin REDIS_URL with redis://, or use its TLS port"),
    ("RECORD_LAYER_FAILURE", "this port does not use TLS: begin REDIS_URL with redis://, or use its TLS port"),
    (
        "Timeout connecting",
        "does a firewall block it? does it speak TLS if, and only if, REDIS_URL begins with rediss://?",
    ),
    ("Connection reset by peer", "is Redis running? if it requires TLS, begin REDIS_URL with rediss://"),
    ("Connection closed by server", "is Redis running? if it requires TLS, begin REDIS_URL with rediss://"),
)
# A refused permission. Outside of scripts Redis names its code, NOPERM, which redis-py removes. Inside, Redis 6.2 and
# 7.0 write "The user executing the script can't …", Redis 7.2 and Valkey "ACL failure in script: …".
PERMISSION_PATTERN = re.compile(
    r"NOPERM|ACL failure|user executing the script|has no permissions|no permissions to (run|access)", re.IGNORECASE
)
# A command that the server does not have, was started without (rename-command), or does not allow in scripts.
UNKNOWN_COMMAND_PATTERN = re.compile(
    r"unknown (redis )?(sub)?command|not allowed from script|command not (allowed|supported)|unsupported command",
    re.IGNORECASE,
)
# Dragonfly, and the clusters of some hosts.
UNDECLARED_KEY_PATTERN = re.compile(r"undeclared key|should be passed using the KEYS array", re.IGNORECASE)
GRANT_REMEDY = (
    "grant the Redis user every command that the daemon uses, the queue's keys and its channels (~prefix:* &prefix:*); "
    "`flowstate-daemon check` lists what is missing"
)
UNKNOWN_COMMAND_REMEDY = (
    "this server lacks a command that the daemon needs: use Redis 6.2 or newer, or Valkey; "
    "is it a sentinel or a proxy, or was the command renamed?"
)
UNDECLARED_KEY_REMEDY = (
    "this server refuses scripts that use keys which they do not declare, as those of Bull and of the daemon do: "
    "start Dragonfly with --default_lua_flags=allow-undeclared-keys, or use Redis or Valkey"
)
KEY_TYPE_REMEDY = "a key of the queue has another type: was it written by another program, such as BullMQ?"
NOT_REDIS_REMEDY = "the program at this address does not speak Redis' protocol: check host and port in REDIS_URL"
REMEDIES = (
    (refused.AuthenticationError, "check REDIS_URL or REDIS_PASSWORD"),
    (refused.NoPermissionError, GRANT_REMEDY),
    (refused.InvalidResponse, NOT_REDIS_REMEDY),
    (refused.BusyLoadingError, "Redis is loading its data and will answer soon"),
    (refused.ReadOnlyError, "this is a replica or a primary during a failover; point REDIS_URL at the primary"),
    (refused.OutOfMemoryError, "Redis is full: raise maxmemory or remove keys (maxmemory-policy must be noeviction)"),
    (refused.AskError, "the cluster is moving the queue's hash slot to another node"),
    (refused.TryAgainError, "the cluster is moving the queue's hash slot to another node"),
    (refused.MasterDownError, "the primary is down"),
    (refused.ClusterDownError, ""),
    (refused.TimeoutError, "Redis did not answer in time: look at its load and at the network"),
    (refused.ConnectionError, "is Redis running, and is REDIS_URL right?"),
)


def to_unavailable(error: refused.RedisError) -> StoreUnavailableError | None:
    """The StoreUnavailableError for an error of redis-py, or None when waiting does not help."""
    if isinstance(error, refused.MovedError):
        return None  # the command is sent to another node
    text = str(error).rstrip(".")
    if isinstance(error, refused.ResponseError) and "WRONGTYPE" in text:
        return KeyTypeError(f"Redis: {text}; {KEY_TYPE_REMEDY}")
    remedy = _remedy(error, text)
    return None if remedy is None else StoreUnavailableError(f"Redis: {text}; {remedy}".removesuffix("; "))


def _remedy(error: refused.RedisError, text: str) -> str | None:
    """What an operator can do; empty when there is nothing to add, None when waiting does not help."""
    if isinstance(error, refused.ConnectionError | refused.TimeoutError):
        hint = next((hint for sign, hint in TLS_HINTS if sign.lower() in text.lower()), None)
        if hint is not None:
            return hint
    for cls, remedy in REMEDIES:
        if isinstance(error, cls):
            return remedy
    if not isinstance(error, refused.ResponseError):
        return None
    if is_permission_error(error):
        return GRANT_REMEDY
    if UNKNOWN_COMMAND_PATTERN.search(text):
        return UNKNOWN_COMMAND_REMEDY
    if UNDECLARED_KEY_PATTERN.search(text):
        return UNDECLARED_KEY_REMEDY
    return "" if text.startswith(TRANSIENT_PREFIXES) else None


def is_permission_error(error: BaseException | None) -> bool:
    """Whether Redis refused a command, a key or a channel to this user, inside a script or outside."""
    if isinstance(error, refused.NoPermissionError):
        return True
    return isinstance(error, refused.ResponseError) and bool(PERMISSION_PATTERN.search(str(error)))


def is_unsupported(error: BaseException | None) -> bool:
    """Whether the server does not have the command, or the user may not run it."""
    if is_permission_error(error):
        return True
    return isinstance(error, refused.ResponseError) and bool(UNKNOWN_COMMAND_PATTERN.search(str(error)))


def is_read_only_replica(error: BaseException | None) -> bool:
    """Whether the server has become a replica, whose data may be outdated until its first synchronization."""
    return isinstance(error, refused.ReadOnlyError) or str(error).startswith("UNBLOCKED")


@contextmanager
def translate_errors() -> Iterator[None]:
    """Translate the errors of redis-py inside the block. Raises StoreUnavailableError, ConfigError."""
    try:
        yield
    except refused.ClusterCrossSlotError as error:
        raise ConfigError([CROSS_SLOT_MESSAGE]) from error
    except refused.RedisError as error:
        outage = to_unavailable(error)
        if outage is None:
            raise
        try:
            raise outage from error
        finally:
            del outage  # this frame is in its traceback, and so would keep the emails of all frames in memory
    except OSError as error:
        raise StoreUnavailableError(f"Redis: {error}; is Redis running, and is REDIS_URL right?") from error
