"""What an email is: kinds, validation, policy, translations, rendering. Pure: no I/O after the start."""
