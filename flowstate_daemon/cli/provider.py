"""Commands about the way to the provider: `provider status|open`."""

from __future__ import annotations

import click

from flowstate_daemon.cli.context import QueueContext, with_queue
from flowstate_daemon.cli.output import format_duration, json_option, print_fields, print_json
from flowstate_daemon.sending.rate_limiter import RateLimiter, RateLimitState


@click.group()
def provider() -> None:
    """See whether mails may leave, and how fast; try again at once."""


@provider.command()
@json_option
@click.pass_obj
def status(config_file: str | None, *, as_json: bool) -> None:
    """Tell whether the provider takes mails, and how fast.

    That is what all daemons on this Redis know of it together.
    """
    state = with_queue(config_file, lambda context: _rate_limiter(context).state())
    if as_json:
        print_json(state)
    else:
        print_fields("Provider:", _fields(state))


@provider.command(name="retry")
@json_option
@click.pass_obj
def retry(config_file: str | None, *, as_json: bool) -> None:
    """Let every daemon try again now.

    For when key, account, domain or quota have been mended.

    A refused provider account is retried within five minutes and an open circuit within one; this is for those who do
    not want to wait. It also lifts the pause of bulk after a used-up quota. Nothing is sent that would not be sent
    later.
    """
    with_queue(config_file, lambda context: _rate_limiter(context).request_retry())
    if as_json:
        print_json({"asked": True})
    else:
        click.echo("every daemon tries within seconds; see: flowstate-daemon provider status")


def _rate_limiter(context: QueueContext) -> RateLimiter:
    return RateLimiter(context.connection, context.keys, context.clock)


def _fields(state: RateLimitState) -> dict[str, object]:
    return {
        "account": f"refused: {state.refusal}" if state.refusal else "accepting",
        "requests a second": state.limit or "the provider has reported no limit",
        "slower by": f"{round((state.slowdown - 1) * 100)} %" if state.slowdown > 1 else None,
        "blocked for": format_duration(state.blocked_for_ms) if state.blocked_for_ms else None,
        "bulk paused for": format_duration(state.bulk_paused_ms) if state.bulk_paused_ms else None,
        "reason": state.reason,
        "recent requests": state.recent_requests,
    }
