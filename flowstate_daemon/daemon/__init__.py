"""The daemon as a whole: `bootstrap` builds its components, `daemon` opens, runs, drains and closes them."""
