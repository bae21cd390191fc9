"""Redaction in Lua, of the data of jobs that the scripts fail."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest

from flowstate_daemon.base.redaction import CODE_NAMES, CODE_RULES_JSON, REDACTED, redact_code_fields
from flowstate_daemon.queue.bull_queue import BullQueue
from tests.integration.queue.queue_fixture import QueueFixture

INCLUDE = (files("flowstate_daemon") / "queue/lua/includes/redact.lua").read_text(encoding="utf-8")
RUN = f"{INCLUDE}\nreturn redact_json(ARGV[1], cjson.decode(ARGV[2]))"


async def redact(stage: QueueFixture, text: str, rules: str = CODE_RULES_JSON) -> str:
    redacted = await stage.redis.eval(RUN, 0, text, rules)
    return redacted.decode() if isinstance(redacted, bytes) else str(redacted)


@pytest.mark.parametrize("name", CODE_NAMES)
async def test_each_name_of_a_code_is_redacted_when_a_script_fails_a_job(
    stage: QueueFixture, bull: BullQueue, name: str
) -> None:
    """The scripts that fail jobs get every name of the list."""
    await stage.put(
        "1",
        "active",
        stalledCounter=1,
        data=json.dumps({"to": "a@example.org", "context": {name: "7Q3", "token": "t"}}),
    )
    await stage.redis.sadd(stage.keys("stalled"), "1")
    await bull.check_stalled(1, 30_000)
    data = json.loads(await stage.redis.hget(stage.keys("1"), "data") or "")
    assert data == {"to": "a@example.org", "context": {name: REDACTED, "token": "t"}}


async def test_redact_lua_takes_its_names_from_the_rules(stage: QueueFixture) -> None:
    """The script has no names of its own."""
    rules = json.dumps({"endings": ["wombat"], "placeholder": "-"})
    text = '{"otpCode":"1","myWombat":"2","emu":"3"}'
    assert await redact(stage, text, rules) == '{"otpCode":"1","myWombat":"-","emu":"3"}'


@pytest.mark.parametrize(
    "text",
    [
        '{"OTP_CODE": 493027, "after": 1}',
        '{"otpCode" : "a\\"b\\\\", "after": "otpCode"}',
        '{"otpCode": {"a": ["}", {"b": "]"}]}, "after": []}',
        '{"otp_code": [1, [2], "]"], "after": {}}',
        '[{"x": "\\"otpCode\\": \\"y\\""}, {"otpCode": null}, {"otpCode": true}]',
        '{"status_code": 404, "tokens": "x", "title": "code: 1"}',
        "[]",
        '"otpCode"',
    ],
)
async def test_redact_lua_leaves_the_same_as_python(stage: QueueFixture, text: str) -> None:
    """Whether a worker or a script fails a job, the same data is left."""
    assert json.loads(await redact(stage, text)) == redact_code_fields(json.loads(text))


@pytest.mark.parametrize("text", ['{"a": 1.0, "b": [], "c": 12345678901234567890}', "", "no JSON", '{"open'])
async def test_redact_lua_keeps_text_without_secrets_byte_for_byte(stage: QueueFixture, text: str) -> None:
    """Numbers and empty lists keep the form in which the producer wrote them."""
    assert await redact(stage, text) == text


@pytest.mark.parametrize("value", ['"493027', '{"a":"493027"', "493027", '["493027'])
async def test_redact_lua_hides_the_rest_when_json_is_incomplete(stage: QueueFixture, value: str) -> None:
    """A value without an end is redacted to the end of the text."""
    assert await redact(stage, f'{{"otpCode":{value}') == f'{{"otpCode":"{REDACTED}"'
