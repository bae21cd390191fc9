"""The command `completion`: a script that lets a shell complete commands, options and their values."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from flowstate_daemon.cli.output import json_option, print_json

PROGRAM = "flowstate-daemon"
COMPLETE_VARIABLE = "_FLOWSTATE_DAEMON_COMPLETE"  # click reads it, by the name of the program
SHELLS = ("bash", "zsh", "fish")


@click.command(
    epilog="""\b
To use it:
  bash  flowstate-daemon completion bash > ~/.local/share/bash-completion/completions/flowstate-daemon
  zsh   flowstate-daemon completion zsh > ~/.zfunc/_flowstate-daemon     (a folder in $fpath)
  fish  flowstate-daemon completion fish > ~/.config/fish/completions/flowstate-daemon.fish"""
)
@click.argument("shell", type=click.Choice(SHELLS), metavar="SHELL")
@json_option
@click.pass_context
def completion(context: click.Context, shell: str, *, as_json: bool) -> None:
    """Print the completion script for SHELL: bash, zsh or fish."""
    complete = get_completion_class(shell)
    if complete is None:  # pragma: no cover - click has all of SHELLS
        raise click.UsageError(f"no completion for {shell}")
    script = complete(context.find_root().command, {}, PROGRAM, COMPLETE_VARIABLE)
    # Not `source()`, which starts bash to learn its version.
    text = script.source_template % script.source_vars()
    if as_json:
        print_json({"shell": shell, "script": text})
    else:
        click.echo(text)
