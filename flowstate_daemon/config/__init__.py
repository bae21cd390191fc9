"""Configuration: settings, their validation, and the sources they are read from."""

import os

# pydantic would search all installed packages for plugins at every start (10 ms); this daemon uses none.
# https://docs.pydantic.dev/latest/concepts/plugins/
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
