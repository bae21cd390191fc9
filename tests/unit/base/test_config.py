"""The configuration: precedence of sources, validation, messages, and that the sample files are correct."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from redis.asyncio.connection import parse_url

from flowstate_daemon.base.docstrings import attribute_docstrings
from flowstate_daemon.base.errors import ConfigError
from flowstate_daemon.base.redaction import LOGIN_IN_URL, REDACTED, keep_mistake, redact_text
from flowstate_daemon.config.loader import ENV_ALIASES, ENV_NAMES, KEYS, SECTIONS, Config, load
from flowstate_daemon.config.sources import RENAMED_SETTINGS, env_name
from flowstate_daemon.daemon.builders import build_brand

ROOT = Path(__file__).parents[3]
SAMPLE = ROOT / "config" / "flowstate-daemon.toml"
ENVIRONMENT = ROOT / "config" / "environment.sample"
LINE = re.compile(r"(?P<off># )?(?P<key>[a-z_]+) = (?P<value>.+)")


def url(**environ: str) -> str:
    return load(environ).redis.url.get_secret_value()


def errors(environ: Mapping[str, str], file: Path | None = None, *, sending: bool = False) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(environ, file, sending=sending)
    return caught.value.errors


def written(folder: Path, text: str) -> Path:
    file = folder / "settings.toml"
    file.write_text(text)
    return file


def test_load_when_nothing_is_set() -> None:
    """Without any setting: a local Redis, Bull's names, no provider and no database."""
    config = load({})
    assert config.redis.url.get_secret_value() == "redis://127.0.0.1:6379"
    assert (config.queue.prefix, config.queue.name) == ("bull", "email")
    assert config.resend.api_key is None
    assert config.database.url is None


def test_load_when_sender_missing() -> None:
    """Only `run` requires RESEND_FROM_EMAIL."""
    assert errors({}, sending=True)[0].startswith("RESEND_FROM_EMAIL: missing")
    config = load({"RESEND_FROM_EMAIL": "FlowState <hello@example.com>", "RESEND_API_KEY": "re_key"}, sending=True)
    assert config.mail.from_address == "FlowState <hello@example.com>"


@pytest.mark.parametrize(
    ("sender", "app_name", "shown"),
    [
        ("Équipe FlowState <bonjour@exemple.fr>", "X", "Équipe FlowState <bonjour@exemple.fr>"),
        ("🚀 <a@example.com>", "X", "🚀 <a@example.com>"),
        ("\U0001fae9 <a@example.com>", "X", "\U0001fae9 <a@example.com>"),
        ("Flow, Inc. <a@example.com>", "X", '"Flow, Inc." <a@example.com>'),
        ("a@example.com", "Équipe", "Équipe <a@example.com>"),
        ("a@example.com", "Flow (beta)", '"Flow (beta)" <a@example.com>'),
        ("bonjour@café.example", "Café", "Café <bonjour@xn--caf-dma.example>"),
    ],
)
def test_sender_may_have_a_name_in_any_language(sender: str, app_name: str, shown: str) -> None:
    """As the provider takes it: the name in its own letters, the address in ASCII; without a name, that of the app."""
    environ = {"RESEND_FROM_EMAIL": sender, "APP_NAME": app_name, "FLOWSTATE_DELIVERY": "outbox"}
    config = load(environ, sending=True)
    assert build_brand(config).sender == shown


def test_load_when_mode_given() -> None:
    """FLOWSTATE_MODE is accepted in any case, with two values only."""
    assert load({}).queue.mode == "send"
    assert load({"FLOWSTATE_MODE": "Shadow"}).queue.mode == "shadow"
    assert errors({"FLOWSTATE_MODE": "rehearse"})[0].startswith("FLOWSTATE_MODE: should be 'send' or 'shadow'")


def test_load_when_several_sources(tmp_path: Path) -> None:
    """Default, file, credential, NAME_FILE, environment: each wins over those before, and is named."""
    file = written(tmp_path, '[queue]\nconcurrency = 1\ndefault_attempts = 2\n[mail]\napp_name = "file"\n')
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    for name in ("app_name", "flowstate_queue_default_attempts", "FLOWSTATE_QUEUE_MAX_STALLED_COUNT", "somebody_elses"):
        (credentials / name).write_text("3\n")
    secret = tmp_path / "secret"
    secret.write_text("4\n")
    environ = {
        "CREDENTIALS_DIRECTORY": str(credentials),
        "APP_NAME_FILE": str(secret),
        "FLOWSTATE_QUEUE_MAX_STALLED_COUNT_FILE": str(secret),
        "FLOWSTATE_QUEUE_MAX_STALLED_COUNT": "5",
    }
    config = load(environ, file)
    queue = config.queue
    assert (queue.concurrency, queue.default_attempts, config.mail.app_name, queue.max_stalled_count) == (1, 3, "4", 5)
    sources = {key: source for key, _, source in config.describe()}
    assert sources["queue.concurrency"] == f"[queue] concurrency in {file}"
    assert sources["queue.default_attempts"] == "credential flowstate_queue_default_attempts"
    assert sources["mail.app_name"] == "APP_NAME_FILE"
    assert sources["queue.max_stalled_count"] == "FLOWSTATE_QUEUE_MAX_STALLED_COUNT"
    assert sources["queue.lock_duration_ms"] == "default"


def test_load_when_credentials_are_unreadable(tmp_path: Path) -> None:
    """Without its secrets the daemon would write emails to a folder instead of sending them."""
    with pytest.raises(ConfigError, match=r"CREDENTIALS_DIRECTORY: cannot read .*/credentials: No such file"):
        load({"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")})


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"REDIS_URL": "redis://red-abc123"}, "redis://red-abc123:6379"),
        (
            {"REDIS_URL": "rediss://default:a%40b@x.upstash.io:6380/1"},
            "rediss://default:a%40b@x.upstash.io:6380/1",
        ),
        ({"REDIS_URL": "rediss://x?family=0&ssl_cert_reqs=none"}, "rediss://x:6379?ssl_cert_reqs=none"),
        ({"REDIS_URL": "redis://[::1]:7000"}, "redis://[::1]:7000"),
        ({"REDIS_URL": "unix:///run/redis.sock"}, "unix:///run/redis.sock"),
        (
            {"REDIS_HOST": "h", "REDIS_PORT": "1", "REDIS_PASSWORD": "p@s:/", "REDIS_TLS": "true"},
            "rediss://:p%40s%3A%2F@h:1",
        ),
        ({"REDIS_HOST": "h", "REDIS_USERNAME": "u", "REDIS_PASSWORD": "p"}, "redis://u:p@h:6379"),
        ({"REDIS_HOST": "::1"}, "redis://[::1]:6379"),
        ({"REDIS_URL": "redis://a", "REDIS_HOST": "b", "REDIS_PASSWORD": "p"}, "redis://:p@a:6379"),
        ({"REDIS_URL": "redis://:in-url@a", "REDIS_PASSWORD": "p"}, "redis://:in-url@a:6379"),
        ({"REDIS_URL": "redis://a", "REDIS_TLS": "yes"}, "rediss://a:6379"),
        ({"REDIS_URL": " ", "REDIS_HOST": "", "REDIS_PASSWORD": ""}, "redis://127.0.0.1:6379"),
        ({"REDIS_PORT": "tcp://10.0.0.7:6379", "REDIS_HOST": "redis"}, "redis://redis:6379"),
    ],
)
def test_redis_url_when_deployed_forms(environ: dict[str, str], expected: str) -> None:
    """URL with and without port, parts, a password beside a URL, and what platforms put into REDIS_PORT."""
    assert url(**environ) == expected


@given(username=st.text(min_size=1), password=st.text(min_size=1))
def test_redis_url_when_login_has_special_characters(username: str, password: str) -> None:
    """The client that parses the URL gets user name and password unchanged."""
    config = Config.model_validate({"redis": {"host": "h", "username": username, "password": password}})
    login = parse_url(config.redis.url.get_secret_value())
    assert (login["username"], login["password"]) == (username, password)


def test_redis_url_when_tls_parameters_without_tls() -> None:
    """They are dropped, because the client rejects them on a plain connection."""
    assert url(REDIS_URL="redis://h/2?ssl_cert_reqs=none") == "redis://h:6379/2"
    assert url(REDIS_URL="rediss://h/2?ssl_cert_reqs=none") == "rediss://h:6379/2?ssl_cert_reqs=none"


def test_a_redis_host_from_the_environment_replaces_the_url_of_the_file(tmp_path: Path) -> None:
    """Environment wins over file also where they name the same thing in two ways."""
    file = written(tmp_path, '[redis]\nurl = "redis://from-file"\nport = 7000\n')
    assert load({"REDIS_HOST": "from-env"}, file).redis.url.get_secret_value() == "redis://from-env:7000"


def test_load_when_two_variables_name_one_setting() -> None:
    """FLOWSTATE_MAIL_APP_NAME wins over APP_NAME, which other programs use as well."""
    assert load({"APP_NAME": "a", "FLOWSTATE_MAIL_APP_NAME": "b"}).mail.app_name == "b"


def test_load_when_many_errors(tmp_path: Path) -> None:
    """Errors of file, names, types, ranges and missing values are reported together, one line each."""
    file = written(tmp_path, "[queue]\nlock_duration_ms = 10\nconcurency = 3\n[que]\nx = 1\n")
    environ = {
        "REDIS_PORT": "many",
        "REDIS_URL": "http://x",
        "DATABASE_URL": "mysql://x",
        "FLOWSTATE_HTTP_PROT": "1",
        "FLOWSTATE_LOG_LEVEL": "loud",
        "RESEND_API_KEY_FILE": str(tmp_path / "none"),
    }
    output = errors(environ, file, sending=True)
    expected = {
        f"[queue] lock_duration_ms in {file}: should be greater than or equal to 5000",
        f"{file}: [queue] has no key concurency; did you mean concurrency?",
        f"{file}: [que] is no section; did you mean queue?",
        "REDIS_PORT: should be a valid integer",
        "REDIS_URL: must be like redis://",
        "DATABASE_URL: must start with postgresql://",
        "FLOWSTATE_HTTP_PROT: no such setting; did you mean FLOWSTATE_HTTP_PORT?",
        "FLOWSTATE_LOG_LEVEL: should be 'debug', 'info', 'warning' or 'error'",
        f"RESEND_API_KEY_FILE: cannot read {tmp_path / 'none'}: No such file",
        "RESEND_FROM_EMAIL: missing",
    }
    assert {start for start in expected if any(line.startswith(start) for line in output)} == expected
    assert len(output) == len(expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FLOWSTATE_QUEUE_PREFIX", "a b"),
        ("FLOWSTATE_QUEUE_PREFIX", "a@b"),
        ("FLOWSTATE_QUEUE_NAME", "e*"),
        ("FLOWSTATE_QUEUE_INSTANCE_ID", "a/b"),
        ("FLOWSTATE_QUEUE_MAX_STALLED_COUNT", "101"),
        ("FLOWSTATE_QUEUE_BACKOFF_JITTER", "1.5"),
        ("FLOWSTATE_REDIS_BLOCK_TIMEOUT_S", "inf"),
        ("REDIS_URL", "redis://h:70000"),
        ("REDIS_URL", "redis://:pa/ss@h"),
        ("REDIS_URL", "redis://h/first"),
        ("REDIS_URL", "redis://h/?db=first"),
        ("REDIS_URL", "unix:///run/redis.sock?db=first"),
        ("REDIS_URL", "rediss://h?ssl_cert_reqs=perhaps"),
        ("REDIS_TLS", "perhaps"),
        ("RESEND_FROM_EMAIL", "FlowState"),
        ("RESEND_FROM_EMAIL", "a@example.com\r\nBcc: b@example.com"),
        ("RESEND_FROM_EMAIL", "Élan <élan@exemple.fr>"),
        ("APP_NAME", "Flow\r\nBcc: b@example.com"),
        ("APP_NAME", "Flow\u202eState"),
        ("RESEND_API_KEY", "re_a b"),
        ("RESEND_API_URL", "api.resend.com"),
        ("RESEND_API_URL", "https://me:word@api.resend.com"),
        ("FRONTEND_URL", "javascript:alert(1)"),
        ("FLOWSTATE_HTTP_PORT", "65536"),
        ("FLOWSTATE_LOG_FORMAT", "xml"),
    ],
)
def test_load_when_value_invalid(name: str, value: str) -> None:
    """Each error begins with the variable and is one line."""
    (output,) = errors({name: value})
    assert output.startswith(f"{name}: ")
    assert "\n" not in output


def test_errors_contain_no_secret() -> None:
    """No error contains the value, because a password may be in the wrong variable."""
    names = [name for name, (_, key) in ENV_NAMES.items() if key not in {"app_name", "folder", "host", "username"}]
    output = errors(dict.fromkeys(names, "geh eim\x00@"))
    assert len(output) > len(SECTIONS)
    assert not any("geh" in line or "eim" in line for line in output)


def test_describe_hides_secrets() -> None:
    """`describe` and `repr` show the host of a URL, and of a key only that it is set."""
    environ = {
        "REDIS_URL": "rediss://default:geheim@r.example:6380",
        "DATABASE_URL": "postgresql://u:geheim@db.example:5432/flowstate?schema=public&password=geheim",
        "RESEND_API_KEY": "re_geheim",
        "REDIS_PASSWORD": "mailto:geheim",
    }
    config = load(environ)
    shown = {key: value for key, value, _ in config.describe()}
    assert shown["redis.url"] == "rediss://***@r.example:6380"
    assert shown["database.url"] == "postgresql://***@db.example:5432/flowstate"
    assert shown["resend.api_key"] == shown["redis.password"] == "set, hidden"
    assert "geheim" not in repr(config) + str(shown)
    torn = load({"DATABASE_URL": "postgresql://u:geh/eim@db/flowstate"})
    assert "geh" not in str(torn.describe())


def test_load_when_platform_sets_variables() -> None:
    """Variables that a container platform sets for a service called flowstate-daemon are ignored."""
    load(
        {
            "FLOWSTATE_DAEMON_SERVICE_HOST": "10.0.0.9",
            "FLOWSTATE_DAEMON_SERVICE_PORT_HTTP": "8080",
            "FLOWSTATE_DAEMON_PORT": "tcp://10.0.0.9:8080",
            "FLOWSTATE_DAEMON_PORT_8080_TCP_ADDR": "10.0.0.9",
            "FLOWSTATE_HTTP_PORT": "tcp://10.0.0.9:8080",
            "FLOWSTATE_CONFIG": "somewhere",
        }
    )


def test_default_instance_id_is_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any host name becomes an id that fits into a lock's token."""
    monkeypatch.setattr("socket.gethostname", lambda: f"büro pc/{'x' * 80}")
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", load({}).queue.instance_id)


def test_load_when_file_unreadable(tmp_path: Path) -> None:
    """A file that is missing or not TOML is reported with its path."""
    missing, broken = tmp_path / "none.toml", written(tmp_path, "[queue\n")
    assert str(missing) in errors({}, missing)[0]
    assert str(broken) in errors({}, broken)[0]


def test_sample_file_matches_settings() -> None:
    """`config/flowstate-daemon.toml` and the settings agree on names, defaults, descriptions and variables."""
    output: dict[tuple[str, str], tuple[str, str | None]] = {}
    section, sentence = "", ""
    for line in SAMPLE.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif section and (match := LINE.fullmatch(line)):
            output[section, match["key"]] = sentence, None if match["off"] else match["value"]
        elif line.startswith("# "):
            sentence = line.removeprefix("# ")
    deployed = {key: name for name, key in reversed(ENV_ALIASES.items())}
    expected = {
        key: f"{attribute_docstrings(SECTIONS[key[0]])[key[1]]}" + (f" ({deployed[key]})" if key in deployed else "")
        for key in KEYS
    }
    assert {key: text for key, (text, _) in output.items()} == expected
    for (name, key), (_, value) in output.items():
        field = SECTIONS[name].model_fields[key]
        default = None if field.default_factory else field.default
        fixed = default is not None and not isinstance(default, SecretStr)
        assert (value is not None) == fixed
        if value is not None:
            assert tomllib.loads(f"x = {value}")["x"] == (str(default) if isinstance(default, Path) else default)


def test_sample_file_changes_nothing() -> None:
    """An operator may install the sample unchanged."""
    assert load({}, SAMPLE).model_dump() == load({}).model_dump()


def test_environment_sample_is_valid() -> None:
    """Every variable in `config/environment.sample`, also those commented out, is known and allowed."""
    lines = [line.lstrip("#") for line in ENVIRONMENT.read_text().splitlines() if "=" in line and "# " not in line[:2]]
    environ = dict(line.split("=", 1) for line in lines)
    assert set(environ) <= set(ENV_NAMES)
    load(environ, sending=True)


def test_samples_pass_validation_unedited() -> None:
    """As `make install` puts them; the key, which only the owner knows, is the only thing that `run` misses."""
    lines = [line for line in ENVIRONMENT.read_text().splitlines() if line and not line.startswith("#")]
    environ = dict(line.split("=", 1) for line in lines)
    load(environ, SAMPLE, sending=True, with_credentials=False)
    [missing] = errors(environ, SAMPLE, sending=True)
    assert missing.startswith("RESEND_API_KEY: missing")


@pytest.mark.parametrize(("section", "old"), RENAMED_SETTINGS)
def test_unknown_setting_when_it_was_renamed(tmp_path: Path, section: str, old: str) -> None:
    """A retired name is an error that names its successor, in the file and in the environment."""
    new = RENAMED_SETTINGS[section, old]
    assert (section, new) in KEYS
    assert (section, old) not in KEYS
    file = written(tmp_path, f"[{section}]\n{old} = 1\n")
    assert errors({}, file) == (f"{file}: [{section}] has no key {old}; did you mean {new}?",)
    variable, successor = env_name((section, old)), env_name((section, new))
    assert errors({variable: "1"}) == (f"{variable}: no such setting; did you mean {successor}?",)


PUBLISHED = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
REAL = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"


@pytest.mark.parametrize(
    "secret",
    [
        f"whsec_{PUBLISHED}",
        PUBLISHED,
        f"{REAL},whsec_{PUBLISHED}",
        f"whsec_{PUBLISHED} , {REAL}",
        "whsec_plJ3nmyCDGBKInavdOK15jsl",
        "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        "whsec_" + "QUFB" * 8,
        "whsec_" + "c2VjcmV0" * 4,
        "whsec_",
        "whsec_!!!",
        "whsec_…",
        "whsec_c2hvcnQ=",
    ],
)
def test_load_when_webhook_secret_is_published_or_unusable(secret: str, tmp_path: Path) -> None:
    """A published secret lets others suppress addresses: it is refused from each source, and not repeated."""
    file = written(tmp_path, f'[resend]\nwebhook_secret = "{secret}"\n')
    (tmp_path / "secret").write_text(secret)
    for found in (
        errors({"FLOWSTATE_RESEND_WEBHOOK_SECRET": secret}),
        errors({"FLOWSTATE_RESEND_WEBHOOK_SECRET_FILE": str(tmp_path / "secret")}),
        errors({}, file),
    ):
        assert len(found) == 1
        assert secret not in found[0].replace("whsec_…", "")
        assert "copy it from the webhook's page at Resend" in found[0]


@pytest.mark.parametrize("secret", [REAL, REAL.removeprefix("whsec_"), f"{REAL},{REAL[:-4]}NTY4"])
def test_load_when_webhook_secret_is_usable(secret: str) -> None:
    """One secret, or several during a rotation."""
    assert load({"FLOWSTATE_RESEND_WEBHOOK_SECRET": secret}).resend.webhook_secret is not None


MAY_BE_EMPTY = ("FLOWSTATE_RESEND_WEBHOOK_SECRET", "FLOWSTATE_HTTP_READ_TOKEN", "OTEL_EXPORTER_OTLP_HEADERS")


@pytest.mark.parametrize("name", MAY_BE_EMPTY)
def test_load_when_an_optional_secret_file_is_empty(tmp_path: Path, name: str) -> None:
    """A compose file needs the file to exist; empty, there is no such secret."""
    (tmp_path / "secret").write_text("\n")
    section, key = ENV_NAMES[name]
    assert getattr(getattr(load({f"{name}_FILE": str(tmp_path / "secret")}), section), key) is None


@pytest.mark.parametrize("name", MAY_BE_EMPTY[1:])
@pytest.mark.parametrize("source", ["credential", "file"])
def test_read_token_and_trace_headers_are_read_from_files(tmp_path: Path, name: str, source: str) -> None:
    """As a systemd credential or with `_FILE`, and never shown."""
    value = "3c9e1b7a5d2f4860a1b2c3d4e5f60718"
    (tmp_path / name.lower()).write_text(f"{value}\n")
    file = str(tmp_path / name.lower())
    config = load({"CREDENTIALS_DIRECTORY": str(tmp_path)} if source == "credential" else {f"{name}_FILE": file})
    section, key = ENV_NAMES[name]
    assert getattr(getattr(config, section), key).get_secret_value() == value
    assert value not in repr(config) + repr(config.describe())


@pytest.mark.parametrize(
    ("environ", "enabled", "source"),
    [
        ({}, False, "default"),
        ({"FLOWSTATE_TRACING_ENABLED": "yes"}, True, "FLOWSTATE_TRACING_ENABLED"),
        ({"FLOWSTATE_TRACING_ENABLED": "yes", "OTEL_SDK_DISABLED": "true"}, False, "OTEL_SDK_DISABLED"),
        ({"FLOWSTATE_TRACING_ENABLED": "yes", "OTEL_TRACES_EXPORTER": "none"}, False, "OTEL_TRACES_EXPORTER"),
        ({"FLOWSTATE_TRACING_ENABLED": "no", "OTEL_TRACES_EXPORTER": "zipkin"}, False, "FLOWSTATE_TRACING_ENABLED"),
    ],
)
def test_load_when_opentelemetry_is_switched_off(environ: dict[str, str], enabled: bool, source: str) -> None:
    """The variables that switch every OpenTelemetry program off win, and `config show` names them."""
    config = load(environ)
    assert config.tracing.enabled is enabled
    assert {row[0]: row[2] for row in config.describe()}["tracing.enabled"] == source


@pytest.mark.parametrize("key", ["re_123456789", "re_xxxxxxxxx", "re_XXXXXXXX", "re_your_api_key", "re_"])
def test_load_when_api_key_is_an_example(key: str) -> None:
    """The provider's own examples are not a key; the mistake is found at the start, not with the first email."""
    assert "API key of the provider" in errors({"RESEND_API_KEY": key})[0]


@pytest.mark.parametrize("name", ["FLOWSTATE_HTTP_LINK_SECRET", "FLOWSTATE_HTTP_API_TOKEN"])
@pytest.mark.parametrize(
    "secret",
    ["0123456789abcdef0123456789abcdef", "change-me-change-me-change-me-change-me", f"{'l' * 32},{'0123456789' * 4}"],
)
def test_load_when_strong_secret_is_a_placeholder(name: str, secret: str) -> None:
    """Length alone makes no secret."""
    assert "openssl rand -hex 32" in errors({name: secret})[0]


@pytest.mark.parametrize(
    ("variable", "value", "wrong"),
    [
        ("FLOWSTATE_LINKS_TASK", "today", "must be a path"),
        ("FLOWSTATE_LINKS_TASK", "/tasks/{task}", "must be a path"),
        ("FLOWSTATE_LINKS_TASK", "/a b", "must be a path"),
        ("FLOWSTATE_LINKS_TASK", '/a"onclick="x', "must be a path"),
        ("FLOWSTATE_LINKS_GOAL", "javascript:alert(1)", "must be a path"),
        ("FLOWSTATE_LINKS_GOAL", "https://user@app.example/{id}", "must not contain a login"),
        ("FLOWSTATE_MAIL_LOGO_URL", "logo.png", "must be a URL"),
        ("FLOWSTATE_MAIL_LOGO_WIDTH", "0", "greater than or equal to 16"),
        ("FLOWSTATE_MAIL_BACKEND_DATES", "DD.MM.YYYY", "should be 'M/D/YYYY'"),
        ("FLOWSTATE_MAIL_REPLY_TO", "nobody", "is not an email address"),
        ("FLOWSTATE_MAIL_POSTAL_ADDRESS", "1 rue\nParis", "must be one line"),
        ("FLOWSTATE_MAIL_DEFAULT_LOCALE", "french", "should match pattern"),
    ],
)
def test_load_when_setting_of_emails_invalid(variable: str, value: str, wrong: str) -> None:
    """The error names the variable and what is expected."""
    (error,) = errors({variable: value})
    assert error.startswith(f"{variable}: ")
    assert wrong in error


@pytest.mark.parametrize("value", ["none", "/today", "/goals/{id}", "https://tasks.example/?id={id}", "/é"])
def test_load_when_link_is_given(value: str) -> None:
    """A path, a URL or nothing; characters outside of ASCII are written as %XX."""
    if value.isascii():
        assert load({"FLOWSTATE_LINKS_TASK": value}).links.task == value.replace("none", "")
    else:
        assert "must be a path" in errors({"FLOWSTATE_LINKS_TASK": value})[0]


def test_missing_file_is_named_once_without_numbers(tmp_path: Path) -> None:
    """The name of the file and what is wrong, as for other mistakes; no number that only programmers know."""
    file = tmp_path / "none.toml"
    assert errors({}, file)[0] == f"{file}: cannot be read: No such file or directory; expected a TOML file"


SECRET_NAMES = sorted(
    name
    for name, (section, key) in ENV_NAMES.items()
    if "Secret" in str(SECTIONS[section].model_fields[key].annotation)
)


@pytest.mark.parametrize("source", ["variable", "file", "empty file", "missing file", "credential", "toml"])
@pytest.mark.parametrize("name", SECRET_NAMES)
def test_errors_about_secrets_name_the_setting_and_stay_whole_in_the_log(
    tmp_path: Path, name: str, source: str
) -> None:
    """Whatever is wrong with a secret, wherever it comes from: nothing but the example of a login is redacted, and
    no error contains a value.
    """
    section, key = ENV_NAMES[name]
    value = "hunter2 é\x01 hunter2"
    environ, file = {}, None
    secret = tmp_path / name.lower()
    secret.write_text("" if source == "empty file" else value)
    if source == "variable":
        environ[name] = value
    elif source == "toml":
        file = tmp_path / "daemon.toml"
        file.write_text(f"[{section}]\n{key} = {json.dumps(value)}\n")
    elif source == "credential":
        environ["CREDENTIALS_DIRECTORY"] = str(tmp_path)
    else:
        environ[f"{name}_FILE"] = str(tmp_path / "gone" if source == "missing file" else secret)
    try:
        load(environ, file)
    except ConfigError as error:
        (reason,) = error.errors
        logged = redact_text(keep_mistake(reason))
        assert logged == LOGIN_IN_URL.sub(f"://{REDACTED}@", keep_mistake(reason))
        assert any(part in logged for part in (name, name.lower(), f"[{section}] {key}"))
        assert "hunter2" not in reason
    else:
        assert source != "missing file"
