"""The local environment of `flowstate-daemon dev` and of the tests: embedded Valkey and Postgres, sample users."""
