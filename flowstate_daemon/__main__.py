"""`python -m flowstate_daemon` and the console script `flowstate-daemon`."""

from __future__ import annotations

import sys

from flowstate_daemon.cli.entry import main as run_command


def main() -> None:
    """Run the command line and leave with its exit code."""
    sys.exit(run_command())


if __name__ == "__main__":
    main()
