"""Configuration: settings, their validation, and the sources they are read from."""
