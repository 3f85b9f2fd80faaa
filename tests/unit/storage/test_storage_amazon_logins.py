"""Logins that end: when one is got anew, what happens when none can be had, and what the process that gets them sees."""

import asyncio

import pytest

from spell_proto.errors import SettingsError
from spell_proto.http import CALL_SECONDS_MAX
from spell_proto.registries import RegistryLogin
from spell_storage.amazon import (
    RENEW_SECONDS,
    SECONDS_MAX,
    SPARE_SECONDS,
    Amazon,
    AmazonError,
    Identity,
    Issued,
    environment,
)
from spell_storage.registries import read_role

HOURS_12 = 12 * 3600.0
HERE = Identity("us-west-2", role="arn:aws:iam::123456789012:role/spell")


class Tokens:
    """Gives out logins that are good for 12 hours, numbered, and a clock to move on."""

    def __init__(self):
        self.now = 1e9
        self.given = 0
        self.away = False

    async def issue(self, identity):
        await asyncio.sleep(0)
        if self.away:
            raise AmazonError("Amazon does not answer")
        self.given += 1
        login = RegistryLogin(username="AWS", password=f"{identity.region} {self.given}")
        return Issued(login, self.now + HOURS_12)


@pytest.fixture
def tokens():
    return Tokens()


@pytest.fixture
def amazon(tokens):
    return Amazon(tokens.issue, lambda: tokens.now)


async def test_a_login_is_got_once_and_used_until_an_hour_before_its_end(tokens, amazon):
    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(amazon.login(HERE)) for _ in range(20)]
    assert {one.result().password for one in asked} == {"us-west-2 1"}

    tokens.now += HOURS_12 - RENEW_SECONDS - 1
    assert (await amazon.login(HERE)).password == "us-west-2 1"
    tokens.now += 2
    assert (await amazon.login(HERE)).password == "us-west-2 2"


async def test_everybody_has_logins_of_their_own(tokens, amazon):
    there = Identity("eu-west-1", role=HERE.role)

    assert (await amazon.login(HERE)).password == "us-west-2 1"
    assert (await amazon.login(there)).password == "eu-west-1 2"
    assert (await amazon.login(HERE)).password == "us-west-2 1"


async def test_an_old_login_is_used_while_amazon_is_away_but_not_at_its_end(tokens, amazon):
    await amazon.login(HERE)
    tokens.away = True

    tokens.now += HOURS_12 - SPARE_SECONDS - 1
    assert (await amazon.login(HERE)).password == "us-west-2 1"
    tokens.now += 2
    with pytest.raises(AmazonError, match="Amazon does not answer"):
        await amazon.login(HERE)


async def test_what_is_forgotten_is_got_anew(tokens, amazon):
    await amazon.login(HERE)
    amazon.forget()

    assert (await amazon.login(HERE)).password == "us-west-2 2"


def test_nothing_secret_is_in_what_an_identity_looks_like():
    assert "s3cret" not in f"{Identity('us-west-2', access_key='AKIA', secret_key='s3cret')!r}"


def test_the_process_that_asks_trusts_what_we_trust_and_gets_no_setting_of_ours():
    given = {
        "SPELL_DATABASE_URL": "x",
        "AWS_CA_BUNDLE": "/old",
        "SSL_CERT_FILE": "/ours",
        "AWS_PROFILE": "p",
        "HOME": "/h",
    }

    assert environment(given) == {
        "SSL_CERT_FILE": "/ours",
        "AWS_CA_BUNDLE": "/ours",
        "AWS_PROFILE": "p",
        "HOME": "/h",
    }
    assert environment({"AWS_CA_BUNDLE": "/old"}) == {}


@pytest.mark.parametrize("role", ["", HERE.role, "arn:aws-cn:iam::123456789012:role/path/to/spell+x=,.@_-"])
def test_a_role_is_an_arn_or_nothing(role):
    assert read_role(role) == role


@pytest.mark.parametrize(
    "role", ["spell", "arn:aws:iam::1:role/x", "arn:aws:iam::123456789012:user/x", HERE.role + "\n", " "]
)
def test_what_is_no_role_ends_the_start_with_a_sentence(role):
    with pytest.raises(SettingsError, match="SPELL_AWS_ROLE must be the ARN of an IAM role"):
        read_role(role)


async def test_a_renewal_that_fails_takes_no_login_from_anybody(tokens, amazon):
    there = Identity("eu-west-1", role=HERE.role)
    await amazon.login(HERE)
    await amazon.login(there)
    tokens.away = True

    with pytest.raises(AmazonError):
        await amazon.renew(HERE)
    assert (await amazon.login(HERE)).password == "us-west-2 1"
    assert (await amazon.login(there)).password == "eu-west-1 2"

    tokens.away = False
    assert (await amazon.renew(HERE)).password == "us-west-2 3"
    assert (await amazon.login(HERE)).password == "us-west-2 3"


async def test_a_slow_amazon_is_given_up_before_whoever_asks_gives_up_storage():
    started, end = 0, asyncio.Event()

    async def slow(_):
        nonlocal started
        started += 1
        await end.wait()
        raise AmazonError("Amazon does not answer")

    amazon = Amazon(slow)
    asked = [asyncio.ensure_future(amazon.login(HERE)) for _ in range(5)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    end.set()

    assert {type(one) for one in await asyncio.gather(*asked, return_exceptions=True)} == {AmazonError}
    assert started == 1, "one after another, they would wait for longer"
    assert SECONDS_MAX + 5 <= CALL_SECONDS_MAX
