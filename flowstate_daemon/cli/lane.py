"""Commands about the way to the provider: `lane status|open`."""

from __future__ import annotations

import click

from flowstate_daemon.cli.desk import Desk, at_desk
from flowstate_daemon.cli.show import json_option, print_facts, print_json, span
from flowstate_daemon.queue.pacer import Pacer, PacerState


@click.group()
def lane() -> None:
    """See whether mails may leave, and how fast; try again at once."""


@lane.command()
@json_option
@click.pass_obj
def status(config_file: str | None, *, as_json: bool) -> None:
    """Tell whether the provider takes mails, and how fast.

    That is what all daemons on this Redis know of it together.
    """
    state = at_desk(config_file, lambda desk: _pacer(desk).state())
    if as_json:
        print_json(state)
    else:
        print_facts("The lane:", _facts(state))


@lane.command(name="open")
@json_option
@click.pass_obj
def open_(config_file: str | None, *, as_json: bool) -> None:
    """Let every daemon try again now.

    For when key, account, domain or quota have been mended.

    A closed lane opens by itself within five minutes, and bulk that rests goes on within one; this is for those who do
    not want to wait. It also lifts the pause of bulk after a used-up quota. Nothing is sent that would not be sent
    later.
    """
    at_desk(config_file, lambda desk: _pacer(desk).ask_to_try())
    if as_json:
        print_json({"asked": True})
    else:
        click.echo("every daemon tries within seconds; see: flowstate-daemon lane status")


def _pacer(desk: Desk) -> Pacer:
    return Pacer(desk.connection, desk.keys, desk.clock)


def _facts(state: PacerState) -> dict[str, object]:
    return {
        "lane": f"closed: {state.lane_closed}" if state.lane_closed else "open",
        "requests a second": state.limit or "the provider has told no limit",
        "slower by": f"{round((state.stretch - 1) * 100)} %" if state.stretch > 1 else None,
        "rests for": span(state.resting_ms) if state.resting_ms else None,
        "bulk paused for": span(state.bulk_paused_ms) if state.bulk_paused_ms else None,
        "reason": state.reason,
        "requests lately": state.recent,
    }
