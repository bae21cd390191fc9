"""The command line: one module per command group, tables for people, `--json` for programs, fixed exit codes."""

import os

# pydantic would search all installed packages for plugins at every start (15 ms); this program uses none.
# https://docs.pydantic.dev/latest/concepts/plugins/
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
