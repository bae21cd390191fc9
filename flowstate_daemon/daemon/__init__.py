"""The one place that builds: `building` puts the parts together, `house` opens, runs, drains and closes them."""
