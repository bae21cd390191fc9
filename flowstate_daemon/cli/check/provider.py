"""What `check` says of the provider: the key and the sender's domain. Judging is pure."""

from __future__ import annotations

from flowstate_daemon.cli.check.result import CheckResult, fail, ok, unreachable, warn
from flowstate_daemon.config.loader import Config
from flowstate_daemon.delivery.resend_gateway import KeyCheck, KeyStatus, ResendGateway, ResendOptions

TIMEOUT_S = 10.0
SANDBOX_DOMAIN = "resend.dev"


async def check_provider(config: Config) -> list[CheckResult]:
    """Ask about the key; asking costs one request and sends nothing."""
    key = config.resend.api_key
    if key is None:
        return [
            warn("provider", "no RESEND_API_KEY: mails are written to files", "set RESEND_API_KEY to send for real")
        ]
    timeout_s = min(config.resend.timeout_s, TIMEOUT_S)
    gateway = ResendGateway(ResendOptions(key.get_secret_value(), config.resend.api_url, timeout_s))
    await gateway.open()
    try:
        found = await gateway.check()
    finally:
        await gateway.close()
    return evaluate_key(found, config)


def evaluate_key(found: KeyCheck, config: Config) -> list[CheckResult]:
    """What the provider's word on the key means for the sender's domain. Pure."""
    place = config.resend.api_url
    if not found.usable:
        text = f"{place}: {found.status.value}: {found.reason}"
        if found.status is KeyStatus.UNKNOWN:
            return [unreachable("provider", text, "check RESEND_API_URL and the way out to it")]
        return [fail("provider", text, "check RESEND_API_KEY; make a new key in the provider's dashboard")]
    return [ok("provider", f"{place}: the key has {found.status.value}"), evaluate_domain(found, config)]


def evaluate_domain(found: KeyCheck, config: Config) -> CheckResult:
    """A key that may only send may not ask for domains either. Pure."""
    domain = config.mail.from_address.rpartition("@")[2].rstrip(">").lower()
    if found.status is KeyStatus.SENDING:
        return ok("sender domain", f"{domain}: a key that may only send cannot tell whether it is verified")
    if domain == SANDBOX_DOMAIN:
        return warn("sender domain", f"{domain} reaches your own address only", "verify a domain of yours")
    state = {name.lower(): state for name, state in found.domains.items()}.get(domain, "unknown")
    if state == "verified":
        return ok("sender domain", f"{domain} is verified")
    text = f"{domain} is {state} at the provider"
    return fail("sender domain", text, "verify the domain there, or change RESEND_FROM_EMAIL")
