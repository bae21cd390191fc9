"""The settings: one frozen section per room, each key with its default, its limits and its sentence.

`config.py` fills them from file and environment; rooms take the sections they need. The sentences stand in
`config/flowstate-daemon.toml` too, and in what an operator reads when a value is wrong.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from pydantic import BaseModel, ConfigDict, Field, FilePath, SecretStr, model_validator

from flowstate_daemon.config.validators import (
    CaseInsensitive,
    CronExpression,
    DeadlineTime,
    HostPortList,
    HttpUrl,
    Mailbox,
    PostgresUrl,
    RedisKeyPart,
    RedisUrl,
    Secret,
    SecretList,
    StrongSecretList,
    TimeZoneName,
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
    """What all sections have in common. Wrong input is never repeated in an error: it may be a secret."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class RedisSettings(SettingsSection):
    host: str = "127.0.0.1"
    """Where Redis runs, for those who do not give a URL."""
    port: int = Field(default=6379, ge=1, le=65535)
    """Its port, when the URL does not say or there is none."""
    username: str | None = None
    """The Redis user; without one, the default user."""
    password: SecretStr | None = None
    """Its password; used with a URL that carries none, too."""
    tls: bool = False
    """Speak TLS, as a URL that begins with rediss:// does."""
    ca_file: FilePath | None = None
    """The file with the authority that signed its certificate, where the system does not know that authority."""
    sentinels: HostPortList = ""
    """The sentinels that know the primary, host:port,host:port; the URL then gives login, TLS and database only."""
    sentinel_master: str = Field(default="mymaster", min_length=1)
    """What the sentinels call the primary."""
    sentinel_username: str | None = None
    """The user at the sentinels."""
    sentinel_password: SecretStr | None = None
    """The password at the sentinels, if they want one."""
    block_timeout_s: float = Field(default=20.0, ge=0.1, le=20.0)
    """The longest wait for a job on one connection, in seconds; shorter waits cost more commands."""
    url: RedisUrl = SecretStr("")
    """The whole address, redis://user:password@host:port/db; wins over host and port."""

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
    """Send mails, or, as a shadow of another worker, only tell what would be sent and how that one differs."""
    prefix: RedisKeyPart = "bull"
    """What all keys start with; braces around it, {bull}, keep the queue in one slot of a Redis Cluster."""
    name: RedisKeyPart = "email"
    """The queue's name, as the producers call it."""
    instance_id: str = Field(default_factory=_host_name, pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """Who this daemon is among those on the same queue, restart after restart; else the host's name."""
    concurrency: int = Field(default=300, ge=1, le=10_000)
    """How many jobs are in hand at once; up to a hundred of them leave in one request."""
    urgent_concurrency: int = Field(default=20, ge=0, le=1_000)
    """How many more are in hand when these are one-time codes."""
    lock_duration_ms: int = Field(default=30_000, ge=5_000, le=600_000)
    """How long a claimed job stays ours without a sign of life; below 5 s a slow network would lose jobs."""
    stalled_interval_ms: int = Field(default=30_000, ge=1_000, le=600_000)
    """How often to look for jobs of workers that died."""
    max_stalled_count: int = Field(default=1, ge=0, le=100)
    """How often a job may be taken back from a dead worker before it fails, as Bull counts."""
    max_recoveries: int = Field(default=10, ge=0, le=1_000)
    """How often a job may be taken back from this daemon's own earlier life before it fails."""
    max_data_bytes: int = Field(default=1_048_576, ge=1_024, le=67_108_864)
    """The largest job data that is read; larger jobs fail at once."""
    default_attempts: int = Field(default=4, ge=1, le=100)
    """All tries of a job that does not bring its own number."""
    default_backoff_ms: int = Field(default=2_000, ge=0, le=3_600_000)
    """The wait before the first retry, doubled for each further one."""
    backoff_jitter: float = Field(default=0.0, ge=0.0, le=1.0)
    """The share of that wait which is left to chance."""
    shutdown_timeout_s: float = Field(default=25.0, ge=0.0, le=600.0)
    """How long a stopping daemon lets the mails under way end; the supervisor must wait longer than that."""


class MailSettings(SettingsSection):
    from_address: Mailbox = ""
    """The sender, alone or as Name <address>; `run` needs it."""
    app_name: str = Field(default="FlowState", min_length=1, max_length=100)
    """The product's name in the mails."""
    frontend_url: HttpUrl = "http://localhost:4200"
    """Where links in the mails lead to."""
    default_locale: Literal["en", "fr"] = "en"
    """The language for people who have chosen none."""


class ResendSettings(SettingsSection):
    api_key: Secret | None = None
    """The provider's key; without one, mails are written into the outbox folder."""
    api_url: HttpUrl = "https://api.resend.com"
    """The provider's address."""
    timeout_s: float = Field(default=15.0, ge=1.0, le=20.0)  # longer silence of a sender counts as stuck
    """How long to wait for the provider's answer to one request."""
    initial_requests_per_second: float | None = Field(default=None, gt=0, le=1000)
    """Requests a second until the provider has told its own rate; without it they go one at a time until then."""
    webhook_secret: SecretList | None = None
    """What signs the provider's webhooks, whsec_…; several, separated by commas, while one replaces another."""


class OutboxSettings(SettingsSection):
    folder: Path = Path("outbox")
    """Where mails are written when there is no key for the provider."""


class HttpSettings(SettingsSection):
    enabled: bool = True
    """Whether to open the HTTP port at all."""
    host: str = Field(default="127.0.0.1", min_length=1)
    """The address to listen on."""
    port: int = Field(default=8080, ge=0, le=65535)
    """The port to listen on; 0 takes any free one."""
    public_url: HttpUrl | None = None
    """Where people reach this port from outside, https://…; links to unsubscribe begin with it."""
    link_secret: StrongSecretList | None = None
    """What seals the links to unsubscribe: 32 characters or more; several, separated by commas: the first seals."""
    link_days: int = Field(default=400, ge=1, le=3650)
    """How many days a link to unsubscribe works."""
    api_token: StrongSecretList | None = None
    """What opens /api/v1/: 32 characters or more; several, separated by commas, while one replaces another."""


class DatabaseSettings(SettingsSection):
    url: PostgresUrl | None = None
    """FlowState's Postgres, in Prisma's form; without one, schedules and ledger are off."""
    retention_days: int = Field(default=365, ge=1, le=36_500)
    """How many days the ledger remembers a mail."""
    journal_max_entries: int = Field(default=10_000, ge=100, le=10_000_000)
    """How many outcomes wait in Redis at most when there is no Postgres to move them to; the newest stay."""


class ScheduleSettings(SettingsSection):
    enabled: bool = True
    """Whether mails are sent by the calendar at all; it needs Postgres."""
    default_timezone: TimeZoneName = "Europe/Paris"
    """The time zone of people who have chosen none that exists."""
    task_reminder: bool = True
    """Whether to remind of tasks that are due tomorrow."""
    task_reminder_cron: CronExpression = "0 9 * * *"
    """When, on each person's own clock; of several times of one day the first counts."""
    task_reminder_deadline: DeadlineTime = "12:00"
    """Until when a reminder may be late, on the same clock; after that it is left out."""
    task_reminder_per_task: bool = False
    """One mail for each task, instead of one with all of them."""
    overdue_summary: bool = True
    """Whether to sum up tasks that are overdue."""
    overdue_summary_cron: CronExpression = "0 7 * * *"
    """When, on each person's own clock."""
    overdue_summary_deadline: DeadlineTime = "10:00"
    """Until when a summary may be late."""
    focus_report: bool = True
    """Whether to report on the focus sessions of the week before."""
    focus_report_cron: CronExpression = "0 17 * * 0"
    """When, on each person's own clock."""
    focus_report_deadline: DeadlineTime = "mon 12:00"
    """Until when a report may be late."""
    max_queued: int = Field(default=500, ge=1, le=1_000_000)
    """How many mails of the calendar wait in the queue at most; the rest is made when they have left."""


class LogSettings(SettingsSection):
    level: Annotated[Literal["debug", "info", "warning", "error"], CaseInsensitive] = "info"
    """The least important events that are written."""
    format: Annotated[Literal["auto", "json", "console"], CaseInsensitive] = "auto"
    """Lines for machines or for people; auto asks whether it writes to a terminal."""


def _bracket_ipv6(host: str) -> str:
    """An IPv6 address needs brackets in a URL."""
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
