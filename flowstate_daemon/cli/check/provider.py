"""Checks of the provider: the key and the sender's domain. The `evaluate_…` functions are pure."""

from __future__ import annotations

from flowstate_daemon.base.address import ascii_domain, sender_domain
from flowstate_daemon.cli.check.result import CheckResult, fail, ok, unreachable, warn
from flowstate_daemon.config.loader import Config
from flowstate_daemon.delivery.resend_gateway import KeyCheck, KeyStatus, ResendGateway, ResendOptions

TIMEOUT_S = 10.0
SANDBOX_DOMAIN = "resend.dev"


async def check_provider(config: Config) -> list[CheckResult]:
    """Verify the key with one request, which sends nothing."""
    key = config.resend.api_key
    if config.is_dev:
        return [ok("provider", "not checked: as in `dev`, no email is sent, all are written to files")]
    if config.delivery == "outbox":
        text = "delivery is outbox: no email is sent, all are written to files"
        return [warn("provider", text, "unset FLOWSTATE_DELIVERY (queue.delivery) to send emails")]
    if key is None:
        return [ok("provider", "not checked: shadow mode sends nothing, and there is no RESEND_API_KEY")]
    timeout_s = min(config.resend.timeout_s, TIMEOUT_S)
    proxy = config.resend.proxy_url
    options = ResendOptions(
        key.get_secret_value(),
        config.resend.api_url,
        timeout_s,
        proxy_url=None if proxy is None else proxy.get_secret_value(),
    )
    gateway = ResendGateway(options)
    await gateway.open()
    try:
        key_check = await gateway.check()
    finally:
        await gateway.close()
    return evaluate_key(key_check, config)


def evaluate_key(key_check: KeyCheck, config: Config) -> list[CheckResult]:
    """The results for the key and, if it is usable, for the sender's domain. Pure."""
    api_url = config.resend.api_url
    if config.resend.proxy_url is not None:
        api_url += f" (through the proxy in {config.sources[('resend', 'proxy_url')]})"
    if not key_check.usable:
        text = f"{api_url}: {key_check.status.value}: {key_check.reason}"
        if key_check.status is KeyStatus.UNKNOWN:
            return [unreachable("provider", text, "check RESEND_API_URL and the network path to it")]
        return [fail("provider", text, "check RESEND_API_KEY; create a new key in the provider's dashboard")]
    return [ok("provider", f"{api_url}: the key has {key_check.status.value}"), evaluate_domain(key_check, config)]


def evaluate_domain(key_check: KeyCheck, config: Config) -> CheckResult:
    """The state of the sender's domain. A key that can only send cannot list domains. Pure."""
    domain = sender_domain(config.mail.from_address)
    if key_check.status is KeyStatus.SENDING:
        return ok("sender domain", f"{domain}: not checked, because a sending-only key cannot list domains")
    if domain == SANDBOX_DOMAIN:
        return warn("sender domain", f"{domain} delivers only to your own address", "verify your own domain")
    state = {ascii_domain(name): state for name, state in key_check.domains.items()}.get(domain, "unknown")
    if state == "verified":
        return ok("sender domain", f"{domain} is verified")
    text = f"{domain} is {state} at the provider"
    return fail("sender domain", text, "verify the domain at the provider, or change RESEND_FROM_EMAIL")
