"""The settings: one frozen section per subject, each key with its default, limits and description.

`loader` fills them from file and environment. The descriptions are also in `config/flowstate-daemon.toml` and in the
error messages for invalid values.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr, model_validator

from flowstate_daemon.config.validators import (
    ApiKey,
    CaseInsensitive,
    CronExpression,
    DeadlineTime,
    DisplayText,
    HostPortList,
    HttpUrl,
    LinkPattern,
    Mailbox,
    OneLine,
    PostgresUrl,
    ProxyUrl,
    RedisKeyPart,
    RedisUrl,
    SecretUrl,
    StrongSecretList,
    TimeZoneName,
    WebhookSecretList,
    parse_host_ports,
)

INVALID_INSTANCE_ID_CHARS = re.compile(r"[^A-Za-z0-9._-]")
# Other parameters are meant for other clients (`family=0` for Node's) and would break this one.
REDIS_URL_PARAMETERS = frozenset(
    {
        "ssl_ca_certs",
        "ssl_ca_path",
        "ssl_cert_reqs",
        "ssl_certfile",
        "ssl_check_hostname",
        "ssl_keyfile",
        "db",
    }
)


def _host_name() -> str:
    return INVALID_INSTANCE_ID_CHARS.sub("-", socket.gethostname())[:64] or "daemon"


class SettingsSection(BaseModel):
    """What all sections have in common. Wrong input is never repeated in an error: it may be a secret.

    What a key means is in the docstring below it: see `attribute_docstrings`.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )


class RedisSettings(SettingsSection):
    host: str = "127.0.0.1"
    """Redis host; ignored when url is set."""
    port: int = Field(default=6379, ge=1, le=65535)
    """Redis port; ignored when url contains one."""
    username: str | None = None
    """Redis user; without it, the default user."""
    password: SecretStr | None = None
    """Redis password; also used when url contains none."""
    tls: bool = False
    """Use TLS, as a URL that starts with rediss:// does."""
    ca_file: FilePath | None = None
    """CA bundle (PEM) to verify the server's certificate, if the system does not trust its CA."""
    sentinels: HostPortList = ""
    """Sentinel addresses, host:port,host:port; url then provides only login, TLS and database."""
    sentinel_master: str = Field(default="mymaster", min_length=1)
    """Name of the primary in Sentinel."""
    sentinel_username: str | None = None
    """Sentinel user."""
    sentinel_password: SecretStr | None = None
    """Sentinel password, if required."""
    block_timeout_s: float = Field(default=20.0, ge=0.1, le=20.0)
    """Maximum time a blocking pop waits for a job, in seconds; lower values cost more commands."""
    url: RedisUrl = SecretStr("")
    """Redis URL, redis://user:password@host:port/db; overrides host and port."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """Whatever was given, `url` ends up complete: it is what connections are made from."""
        # The frozen section is not handed out yet; a validator that returned a copy would be ignored.
        self.__dict__["url"] = SecretStr(self._address())
        return self

    def _address(self) -> str:
        given = self.url.get_secret_value()
        if given.startswith("unix://"):
            return given
        parts = urlsplit(given or f"redis://{_bracket_ipv6(self.host)}")
        scheme = "rediss" if self.tls else parts.scheme
        place = f"{_bracket_ipv6(parts.hostname or self.host)}:{parts.port or self.port}{parts.path}"
        fit = {name for name in REDIS_URL_PARAMETERS if name == "db" or scheme == "rediss"}
        pairs = dict(pair for pair in parse_qsl(parts.query) if pair[0] in fit)
        if self.ca_file is not None and scheme == "rediss":
            pairs.setdefault("ssl_ca_certs", str(self.ca_file))
        query = urlencode(pairs)
        login = self._login(parts.username, parts.password)
        return f"{scheme}://{login}{place}{'?' if query else ''}{query}"

    def sentinel_addresses(self) -> list[tuple[str, int]]:
        """Host and port of each sentinel."""
        return parse_host_ports(self.sentinels)

    def _login(self, username: str | None, password: str | None) -> str:
        """The login of the URL, as quoted there; else ours."""
        own = quote(self.password.get_secret_value(), safe="") if self.password else None
        name, word = username or quote(self.username or "", safe=""), password or own
        if word is None:
            return f"{name}@" if name else ""
        return f"{name}:{word}@"


class QueueSettings(SettingsSection):
    mode: Annotated[Literal["send", "shadow"], CaseInsensitive] = "send"
    """send: send emails; shadow: only predict what would be sent, and compare with another worker."""
    delivery: Annotated[Literal["resend", "outbox"], CaseInsensitive] = "resend"
    """resend: send emails; outbox: only write them into the folder of [outbox], for tests."""
    prefix: RedisKeyPart = "bull"
    """Key prefix; braces, {bull}, keep the queue in one hash slot of a Redis Cluster."""
    name: RedisKeyPart = "email"
    """Queue name, as the producers use it."""
    instance_id: str = Field(default_factory=_host_name, pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """Unique id of this daemon on the queue, the same after a restart; default: the host name."""
    concurrency: int = Field(default=300, ge=1, le=10_000)
    """Maximum number of jobs in flight; up to 100 of their emails are sent in one request."""
    urgent_concurrency: int = Field(default=20, ge=0, le=1_000)
    """Additional jobs in flight, reserved for one-time codes."""
    lock_duration_ms: int = Field(default=30_000, ge=5_000, le=600_000)
    """How long a lock on a job lasts unless renewed; below 5 s a slow network would lose locks."""
    stalled_interval_ms: int = Field(default=30_000, ge=1_000, le=600_000)
    """Interval between checks for stalled jobs."""
    max_stalled_count: int = Field(default=10, ge=0, le=100)
    """How often a job may stall before it fails, counted as in Bull, whose default is 1."""
    max_recoveries: int = Field(default=10, ge=0, le=1_000)
    """How often a job may be recovered after a crash of this instance before it fails."""
    max_data_bytes: int = Field(default=1_048_576, ge=1_024, le=67_108_864)
    """Maximum size of a job's data; larger jobs fail immediately."""
    failed_retention_days: int = Field(default=90, ge=0, le=36_500)
    """How many days failed jobs, which contain addresses and texts, are kept; 0 keeps them forever."""
    failed_max_count: int = Field(default=100_000, ge=0, le=100_000_000)
    """Maximum number of failed jobs; the oldest are deleted. 0 means no limit."""
    default_attempts: int = Field(default=4, ge=1, le=100)
    """Default maximum number of attempts, for jobs that do not set it."""
    default_backoff_ms: int = Field(default=2_000, ge=0, le=3_600_000)
    """Default delay before the first retry; it doubles with each retry."""
    backoff_jitter: float = Field(default=0.0, ge=0.0, le=1.0)
    """Random fraction of the retry delay."""
    shutdown_timeout_s: float = Field(default=8.0, ge=0.0, le=600.0)
    """Maximum duration of a stop, 2 s or more; jobs in flight get all but the last 3 s. Docker kills after 10 s."""


class MailSettings(SettingsSection):
    from_address: Mailbox = ""
    """Sender, as address or Name <address>, the name in any language; required by `run`."""
    app_name: DisplayText = Field(default="FlowState", min_length=1, max_length=100)
    """Product name in the emails."""
    frontend_url: HttpUrl = "http://localhost:4200"
    """Base URL of links in the emails."""
    default_locale: str = Field(default="en", pattern=r"^[a-z]{2,3}$")
    """Language for users who have not chosen one: en, fr, or one of kinds_dir."""
    kinds_dir: Path | None = None
    """Folder with further kinds of email and languages, or with changed files of the built-in kinds."""
    backend_dates: Literal["M/D/YYYY", "D/M/YYYY", "YYYY-MM-DD"] = "M/D/YYYY"
    """How the backend writes dates with slashes; dates like 2026-03-31 are always understood."""
    reply_to: Mailbox = ""
    """Address for replies; empty: the sender."""
    logo_url: HttpUrl | None = None
    """Picture at the top of emails, with logo_width and logo_height; without it, the product name as text."""
    logo_width: int = Field(default=180, ge=16, le=600)
    """Width of the logo in pixels."""
    logo_height: int = Field(default=40, ge=16, le=300)
    """Height of the logo in pixels."""
    support_url: HttpUrl | None = None
    """Help page, linked at the end of emails."""
    postal_address: OneLine = ""
    """Postal address at the end of emails, on one line; some countries require it."""


class LinksSettings(SettingsSection):
    task: LinkPattern = "/today"
    """Page of a task; {id} stands for its id. A path below frontend_url or a URL; none: no link."""
    tasks: LinkPattern = "/today"
    """Page of the tasks that are due."""
    overdue: LinkPattern = "/today"
    """Page of the overdue tasks."""
    goal: LinkPattern = "/goals/{id}"
    """Page of a goal."""
    habit: LinkPattern = "/habits"
    """Page of a habit."""
    project: LinkPattern = "/projects/{id}"
    """Page of a project, which an invitation opens."""
    analytics: LinkPattern = "/focus"
    """Page of the focus report."""
    settings: LinkPattern = ""
    """Page of the application for email settings, if the daemon has no preference page."""
    reset_password: LinkPattern = ""
    """Page for a new password that a link can open; with it, a password reset has a button. The frontend has none."""


class ResendSettings(SettingsSection):
    api_key: ApiKey | None = None
    """API key of the provider; required by `run` and `check`, except in shadow mode and for outbox delivery."""
    api_url: HttpUrl = "https://api.resend.com"
    """Base URL of the provider's API."""
    proxy_url: ProxyUrl | None = None
    """HTTP proxy for requests to the provider; default: HTTPS_PROXY, unless NO_PROXY names the provider."""
    timeout_s: float = Field(default=15.0, ge=1.0, le=20.0)  # longer silence of a sender counts as stuck
    """Timeout of one request to the provider."""
    initial_requests_per_second: float | None = Field(default=None, gt=0, le=1000)
    """Requests per second until the provider reports its limit; without it, one at a time."""
    webhook_secret: WebhookSecretList | None = None
    """Signing secret of the provider's webhooks, whsec_…; several, separated by commas, for rotation."""


class OutboxSettings(SettingsSection):
    folder: Path = Path("outbox")
    """Folder for emails when queue.delivery is outbox."""


class HttpSettings(SettingsSection):
    enabled: bool = True
    """Whether to listen for HTTP."""
    host: str = Field(default="127.0.0.1", min_length=1)
    """Address to listen on; 0.0.0.0 is every IPv4 address, :: every IPv6 and IPv4 address."""
    port: int = Field(default=8080, ge=0, le=65535)
    """Port to listen on; 0 selects a free port."""
    other_hosts: str = ""
    """Other host names that the pages and the API accept, separated by commas, such as that of the container."""
    public_url: HttpUrl | None = None
    """Public URL of this port, https://…; the base of unsubscribe and preference links."""
    link_secret: StrongSecretList | None = None
    """Encryption secret of unsubscribe links, 32 characters or more; several, by commas: the first encrypts."""
    link_days: int = Field(default=400, ge=1, le=3650)
    """How many days an unsubscribe link is valid."""
    api_token: StrongSecretList | None = None
    """Token for /dashboard/ and /api/v1/, 32 characters or more; several, separated by commas, for rotation."""
    read_token: StrongSecretList | None = None
    """Token that may read the pages and the API and change nothing; several, separated by commas, for rotation."""


class DatabaseSettings(SettingsSection):
    url: PostgresUrl | None = None
    """FlowState's Postgres, as a Prisma URL; without it, schedules and ledger are disabled."""
    retention_days: int = Field(default=365, ge=1, le=36_500)
    """How many days ledger entries are kept."""
    without_ledger: bool = False
    """Send all emails without DATABASE_URL even though this queue was used with it before."""
    journal_max_entries: int = Field(default=10_000, ge=100, le=10_000_000)
    """Maximum number of outcomes kept in Redis when there is no Postgres; the oldest are dropped."""


class ScheduleSettings(SettingsSection):
    enabled: bool = True
    """Whether scheduled emails are sent; requires Postgres."""
    default_timezone: TimeZoneName = "Europe/Paris"
    """Fallback time zone for users without a valid one."""
    task_reminder: bool = True
    """Whether to send reminders of tasks that are due tomorrow."""
    task_reminder_cron: CronExpression = "0 9 * * *"
    """When to send, in each user's time zone; of several times in a day the first applies."""
    task_reminder_deadline: DeadlineTime = "12:00"
    """End of the grace period for late reminders, in the same time zone; later ones are skipped."""
    task_reminder_per_task: bool = False
    """One email per task instead of one for all tasks."""
    overdue_summary: bool = True
    """Whether to send summaries of overdue tasks."""
    overdue_summary_cron: CronExpression = "0 7 * * *"
    """When to send, in each user's time zone."""
    overdue_summary_deadline: DeadlineTime = "10:00"
    """End of the grace period for late summaries."""
    focus_report: bool = True
    """Whether to send weekly reports on focus sessions."""
    focus_report_cron: CronExpression = "0 17 * * 0"
    """When to send, in each user's time zone."""
    focus_report_deadline: DeadlineTime = "mon 12:00"
    """End of the grace period for late reports."""
    foreign_jobs: Annotated[Literal["skip", "send"], CaseInsensitive] = "skip"
    """Jobs of these kinds made by other programs, while the schedule is on: skip them as duplicates, or send them."""
    task_reminder_lifetime_h: float | None = Field(default=None, gt=0, le=8_760)
    """Hours after which another program's reminder is not sent; default: the end of the day before the due date."""
    overdue_summary_lifetime_h: float = Field(default=24.0, gt=0, le=8_760)
    """The same for overdue summaries."""
    focus_report_lifetime_h: float = Field(default=72.0, gt=0, le=8_760)
    """The same for focus reports."""
    max_queued: int = Field(default=500, ge=1, le=1_000_000)
    """Maximum number of scheduled emails in the queue; more are enqueued as these are sent."""


class HealthSettings(SettingsSection):
    heartbeat_url: SecretUrl | None = None
    """URL to request while ready, for a service that alerts you when the requests stop; it is a secret."""
    heartbeat_interval_s: float = Field(default=60.0, ge=5.0, le=3600.0)
    """Interval between two requests to heartbeat_url."""
    alert_url: SecretUrl | None = None
    """URL to post JSON to when the daemon is not ready for alert_after_s, and when it recovers; it is a secret."""
    alert_after_s: float = Field(default=180.0, ge=1.0, le=86_400.0)
    """How long the daemon must be not ready before alert_url is called."""
    max_clock_difference_s: float = Field(default=30.0, ge=1.0, le=3600.0)
    """Maximum difference of the clocks of this machine, Redis and Postgres; above it, nothing is planned or expires."""


class TracingSettings(SettingsSection):
    enabled: bool = False
    """Whether to export OpenTelemetry traces; needs the extra otel. The standard variables OTEL_… configure it."""
    headers: SecretStr | None = None
    """Headers of requests to the collector, name=value,name=value; a secret, because they contain its token."""


class LogSettings(SettingsSection):
    level: Annotated[Literal["debug", "info", "warning", "error"], CaseInsensitive] = "info"
    """Minimum log level."""
    format: Annotated[Literal["auto", "json", "console"], CaseInsensitive] = "auto"
    """Log format; auto selects console on a terminal, otherwise json."""
    colors: bool = True
    """Colours on a terminal. NO_COLOR and TERM=dumb turn them off, unless FLOWSTATE_LOG_COLORS is set."""


def _bracket_ipv6(host: str) -> str:
    """An IPv6 address needs brackets in a URL."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
