"""Commands about the provider: `provider status|retry`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

import click

from flowstate_daemon.base.health import NEXT_TRY
from flowstate_daemon.cli.context import QueueContext, with_queue
from flowstate_daemon.cli.output import format_duration, json_option, print_fields, print_json
from flowstate_daemon.sending.provider_state import ProviderState, State
from flowstate_daemon.sending.rate_limiter import RateLimiter, RateLimitState

STATES: Mapping[State, str] = {
    "accepting": "accepts emails",
    "refused": "refuses all emails",
    "circuit_open": "fails (circuit open)",
    "quota_exceeded": "quota exceeded",
}


@click.group()
def provider() -> None:
    """Show whether the provider accepts emails; retry at once."""


@provider.command()
@json_option
@click.pass_obj
def status(config_file: str | None, *, as_json: bool) -> None:
    """Show whether the provider accepts emails, and how fast.

    All daemons on this Redis share this state.
    """
    state = with_queue(config_file, lambda context: _rate_limiter(context).state())
    if as_json:
        print_json({"state": state.state, **{each.name: getattr(state, each.name) for each in fields(state)}})
    else:
        print_fields("Provider:", _fields(state))


@provider.command(name="retry")
@json_option
@click.pass_obj
def retry(config_file: str | None, *, as_json: bool) -> None:
    """Make all daemons retry now.

    Use it after you have fixed the key, the account, the domain or the quota.

    Without it, a refused account is retried within five minutes and an open circuit within one minute. It also ends
    the pause of bulk emails after an exceeded quota. It sends nothing that would not be sent later.
    """

    async def work(context: QueueContext) -> None:
        await _rate_limiter(context).request_retry()
        await context.audit.record("provider retry", "all daemons", 1)

    with_queue(config_file, work)
    if as_json:
        print_json({"requested": True})
    else:
        click.echo("all daemons retry within seconds; see: flowstate-daemon provider status")


def _rate_limiter(context: QueueContext) -> RateLimiter:
    return RateLimiter(context.connection, context.keys, context.clock)


def _describe(problem: ProviderState) -> str:
    """What one daemon reports, with its next try."""
    wait_ms = problem.next_probe_ms
    next_try = "" if wait_ms is None else f"{NEXT_TRY}{f'in {format_duration(wait_ms)}' if wait_ms else 'now'}"
    return f"{STATES[problem.state]}: {problem.reason}{next_try}"


def _fields(state: RateLimitState) -> dict[str, object]:
    return {
        "provider": STATES[state.state],
        **{problem.instance: _describe(problem) for problem in state.problems},
        "requests per second": state.limit or "the provider has reported no limit",
        "slower by": f"{round((state.slowdown - 1) * 100)} %" if state.slowdown > 1 else None,
        "blocked for": format_duration(state.blocked_for_ms) if state.blocked_for_ms else None,
        "bulk paused for": format_duration(state.bulk_paused_ms) if state.bulk_paused_ms else None,
        "reason": state.reason,
        "recent requests": state.recent_requests,
    }
