"""The checks of `flowstate-daemon check`, one module per dependency."""
