"""The command line: one module per command group, tables for people, `--json` for programs, fixed exit codes."""
