"""The command line: one function per command, human tables on a terminal, `--json` everywhere, fixed exit codes."""
