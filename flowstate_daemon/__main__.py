"""`python -m flowstate_daemon` and the console script `flowstate-daemon`."""

from __future__ import annotations

import sys

from flowstate_daemon.cli.entry import main as run_command
from flowstate_daemon.cli.first_process import obey_while_starting


def main() -> None:
    """Run the command line and leave with its exit code."""
    obey_while_starting()
    sys.exit(run_command())


if __name__ == "__main__":
    main()
