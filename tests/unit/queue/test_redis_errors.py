"""Errors of Redis as its versions write them: which are outages, and what they say."""

from __future__ import annotations

import pytest
from redis import exceptions as refused

from flowstate_daemon.base.errors import KeyTypeError, StoreUnavailableError
from flowstate_daemon.redis_client.errors import is_permission_error, is_unsupported, to_unavailable, translate_errors

# Redis 6.2 and 7.0 put their words around the message of the script, 7.2 and Valkey a code before it.
IN_SCRIPTS = (
    "{}",
    "Error running script (call to f_0123456789abcdef): @user_script:12: @user_script: 12: {}",
    "{} script: 0123456789abcdef, on @user_script:12.",
    "ERR {} script: 0123456789abcdef, on @user_script:12.",
)
PERMISSION_TEXTS = (
    "The user executing the script can't run this command or subcommand",
    "The user executing the script can't access at least one of the keys mentioned in the command arguments",
    "The user executing the script can't publish to the channel mentioned in the command",
    "The user executing the script is lacking the permissions for the command",
    "ACL failure in script: User hosted has no permissions to run the 'zadd' command",
    "ACL failure in script: this user has no permissions to access one of the keys used as arguments",
    "NOPERM this user has no permissions to run the 'eval' command or its subcommand",
)
UNKNOWN_TEXTS = (
    "unknown command 'BLMOVE', with args beginning with: 'a' 'b'",
    "unknown command `EVALSHA`, with args beginning with: `x`",
    "Unknown Redis command called from script",
    "Unknown Redis command called from Lua script",
    "This Redis command is not allowed from scripts",
    "This Redis command is not allowed from script",
    "unknown subcommand 'SETNAME'. Try CLIENT HELP.",
)
UNDECLARED_TEXTS = (
    "script tried accessing undeclared key, key: bull:email:id",  # Dragonfly
    "bad lua script for redis cluster, all the keys that the script uses should be passed using the KEYS array",  # Tair
)


@pytest.mark.parametrize("around", IN_SCRIPTS)
@pytest.mark.parametrize("text", PERMISSION_TEXTS)
def test_missing_permission_is_an_outage_with_its_remedy(around: str, text: str) -> None:
    """As every version writes them, alone and inside the message of a script."""
    error = refused.ResponseError(around.format(text))
    outage = to_unavailable(error)
    assert outage is not None
    assert "flowstate-daemon check" in outage.reason
    assert is_permission_error(error)
    assert is_unsupported(error)


@pytest.mark.parametrize("around", IN_SCRIPTS)
@pytest.mark.parametrize("text", UNKNOWN_TEXTS)
def test_missing_command_is_an_outage_with_its_remedy(around: str, text: str) -> None:
    """A server that is too old, a sentinel, a proxy, a command that was renamed."""
    error = refused.ResponseError(around.format(text))
    outage = to_unavailable(error)
    assert outage is not None
    assert "Redis 6.2" in outage.reason
    assert is_unsupported(error)
    assert not is_permission_error(error)


@pytest.mark.parametrize("around", IN_SCRIPTS)
@pytest.mark.parametrize("text", UNDECLARED_TEXTS)
def test_refused_undeclared_key_is_an_outage_with_its_remedy(around: str, text: str) -> None:
    """It is neither a permission nor a command that is missing."""
    error = refused.ResponseError(around.format(text))
    outage = to_unavailable(error)
    assert outage is not None
    assert "allow-undeclared-keys" in outage.reason
    assert not is_unsupported(error)


@pytest.mark.parametrize(
    "error",
    [
        refused.InvalidResponse('Protocol error, got "H" as reply type byte'),
        refused.NoPermissionError("this user has no permissions to run the 'get' command"),
        refused.MasterDownError("MASTERDOWN Link with MASTER is down"),
        refused.ResponseError("MISCONF Redis is configured to save RDB snapshots"),
        refused.AuthenticationError("invalid username-password pair or user is disabled."),
    ],
)
def test_other_faults_of_the_server_are_outages(error: refused.RedisError) -> None:
    """Time or an operator can end them."""
    with pytest.raises(StoreUnavailableError), translate_errors():
        raise error


def test_key_of_another_type() -> None:
    """Also inside a script."""
    for text in ("WRONGTYPE Operation against a key holding the wrong kind of value", "ERR x: -WRONGTYPE Operation"):
        with pytest.raises(KeyTypeError), translate_errors():
            raise refused.ResponseError(text)


@pytest.mark.parametrize("text", ["ERR syntax error", "ERR Error compiling script", "NOSCRIPT No matching script"])
def test_bugs_stay_bugs(text: str) -> None:
    """Waiting would not help, and a remedy would mislead."""
    with pytest.raises(refused.ResponseError), translate_errors():
        raise refused.ResponseError(text)
