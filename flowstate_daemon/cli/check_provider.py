"""What `check` says of the provider: the key and the sender's domain. Judging is pure."""

from __future__ import annotations

from flowstate_daemon.base.config import Config
from flowstate_daemon.cli.verdict import Verdict, fail, ok, unreachable, warn
from flowstate_daemon.delivery.resend_gateway import Check, ResendGateway, ResendSettings, Standing

LONGEST_S = 10.0
TRIAL_DOMAIN = "resend.dev"


async def examine_provider(config: Config) -> list[Verdict]:
    """Ask about the key; asking costs one request and sends nothing."""
    key = config.resend.api_key
    if key is None:
        return [
            warn("provider", "no RESEND_API_KEY: mails are written to files", "set RESEND_API_KEY to send for real")
        ]
    timeout_s = min(config.resend.timeout_s, LONGEST_S)
    gateway = ResendGateway(ResendSettings(key.get_secret_value(), config.resend.api_url, timeout_s))
    await gateway.open()
    try:
        found = await gateway.check()
    finally:
        await gateway.close()
    return judge_key(found, config)


def judge_key(found: Check, config: Config) -> list[Verdict]:
    """What the provider's word on the key means for the sender's domain. Pure."""
    place = config.resend.api_url
    if not found.usable:
        words = f"{place}: {found.standing.value}: {found.reason}"
        if found.standing is Standing.UNKNOWN:
            return [unreachable("provider", words, "check RESEND_API_URL and the way out to it")]
        return [fail("provider", words, "check RESEND_API_KEY; make a new key in the provider's dashboard")]
    return [ok("provider", f"{place}: the key has {found.standing.value}"), judge_domain(found, config)]


def judge_domain(found: Check, config: Config) -> Verdict:
    """A key that may only send may not ask for domains either. Pure."""
    domain = config.mail.from_address.rpartition("@")[2].rstrip(">").lower()
    if found.standing is Standing.SENDING:
        return ok("sender domain", f"{domain}: a key that may only send cannot tell whether it is verified")
    if domain == TRIAL_DOMAIN:
        return warn("sender domain", f"{domain} reaches your own address only", "verify a domain of yours")
    state = {name.lower(): state for name, state in found.domains.items()}.get(domain, "unknown")
    if state == "verified":
        return ok("sender domain", f"{domain} is verified")
    words = f"{domain} is {state} at the provider"
    return fail("sender domain", words, "verify the domain there, or change RESEND_FROM_EMAIL")
