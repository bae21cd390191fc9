"""`python -m flowstate_daemon` and the console script `flowstate-daemon`."""

from __future__ import annotations

import sys

from flowstate_daemon.cli.main import main as run_command
from flowstate_daemon.cli.pid1 import exit_on_sigterm
from flowstate_daemon.cli.standard_streams import open_standard_streams


def main() -> None:
    """Run the command line and exit with its code."""
    open_standard_streams()
    exit_on_sigterm()
    sys.exit(run_command())


if __name__ == "__main__":
    main()
