"""Base: what every room stands on: errors, configuration, time, logs, vital signs, the shape of a service."""
