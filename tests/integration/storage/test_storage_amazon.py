"""Logins of Amazon's registries: got as the role of the cluster, or with an access key; tried, told, and kept nowhere."""

import pytest

from integration.storage.test_storage_registries import NOTHING, known, put, refusal
from spell_proto.errors import RefusedError
from spell_proto.registries import login_for
from support import amazon as amazons
from support.amazon import REGISTRY, ROLE

pytestmark = pytest.mark.integration
#: What moto gives out.
TOKEN = "123456789012-auth-token"


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with amazons.amazon(tmp_path_factory.mktemp("amazon")) as made:
        yield made


@pytest.fixture
def amazon(running):
    running.reset()
    yield running
    running.unguard()


@pytest.fixture
def start(postgres, start_storage):
    def begin(**settings):
        return start_storage(postgres.url("storage"), **settings)

    return begin


async def test_the_role_of_the_cluster_gets_logins_once_it_may(amazon, start):
    """Signatures and policies count: the server itself may only become the role, and the role only get logins."""
    server = amazon.person("server", "sts:AssumeRole", "sts:GetCallerIdentity")
    admin = amazon.person("admin", "iam:*")
    amazon.guard()
    service = start(SPELL_AWS_ROLE=ROLE, **amazon.variables(*server))
    async with service.client() as api:
        error = await refusal(api, REGISTRY, None, None)
        assert (error.code, error.field) == ("registry_login_refused", "password")
        assert "Amazon refused: " in error.message
        assert "is not authorized to perform: ecr:GetAuthorizationToken" in error.message
        assert "nothing was stored" in error.message

        policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"}]}'
        iam = amazon.client("iam", *admin)
        iam.put_role_policy(RoleName="spell-cluster", PolicyName="x", PolicyDocument=policy)
        stored = await put(api, REGISTRY, None, None)
        told = await login_for(api, REGISTRY)

        assert (stored.kind, stored.username) == ("aws_role", ROLE)
        assert (told.username, told.password) == ("AWS", TOKEN)
        iam.delete_role_policy(RoleName="spell-cluster", PolicyName="x")
        with pytest.raises(RefusedError, match=f"no login for {REGISTRY} can be had: Amazon refused: "):
            await login_for(api, REGISTRY)
        assert not [secret for secret in (*server[1:], TOKEN) if secret in service.log]
        await api.call("DELETE", f"/registries/{REGISTRY}", NOTHING)


async def test_what_will_not_get_better_is_told_from_rights_that_are_about_to_be_there(amazon, start):
    service = start(SPELL_AWS_ROLE=ROLE, AWS_ENDPOINT_URL=amazon.url, AWS_EC2_METADATA_DISABLED="true")
    async with service.client() as api:
        error = await refusal(api, REGISTRY, None, None)

    assert error.code == "registry_login_failed"
    assert "no AWS identity of its own" in error.message


async def test_an_access_key_gets_logins_without_any_role(amazon, start, postgres):
    key, secret = amazon.person("robot", "ecr:GetAuthorizationToken")
    other, _ = amazon.person("nobody", "s3:ListBucket")
    amazon.guard()
    service = start(AWS_ENDPOINT_URL=amazon.url)
    async with service.client() as api:
        stored = await put(api, REGISTRY, key, secret)
        told = await login_for(api, REGISTRY)
        wrong = await refusal(api, REGISTRY, key, "x" * 40)
        unknown = await refusal(api, REGISTRY, other, secret)

        assert (stored.kind, stored.username, told.password) == ("aws_key", key, TOKEN)
        for error in (wrong, unknown):
            assert error.code == "registry_login_refused"
            assert secret not in error.message
        assert (await login_for(api, REGISTRY)).password == TOKEN
        assert secret not in service.log
        await api.call("DELETE", f"/registries/{REGISTRY}", NOTHING)


async def test_a_machine_that_is_the_role_need_not_become_it(amazon, start):
    """As on an instance that was started with it: nobody may assume it there."""
    admin = amazon.person("admin", "iam:*", "sts:AssumeRole")
    policy = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["ecr:GetAuthorizationToken", "sts:GetCallerIdentity"], "Resource": "*"}]}'
    amazon.client("iam").put_role_policy(RoleName="spell-cluster", PolicyName="x", PolicyDocument=policy)
    lent = amazon.client("sts", *admin).assume_role(RoleArn=ROLE, RoleSessionName="i-1")["Credentials"]
    amazon.guard()
    variables = amazon.variables(lent["AccessKeyId"], lent["SecretAccessKey"])
    service = start(SPELL_AWS_ROLE=ROLE, AWS_SESSION_TOKEN=lent["SessionToken"], **variables)
    async with service.client() as api:
        assert (await put(api, REGISTRY, None, None)).kind == "aws_role"
        assert (await login_for(api, REGISTRY)).password == TOKEN
        await api.call("DELETE", f"/registries/{REGISTRY}", NOTHING)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"AWS_EC2_METADATA_DISABLED": "true"}, "the server has no AWS identity of its own"),
        ({"AWS_PROFILE": "nothing"}, "the server's AWS settings make no sense: The config profile (nothing)"),
        (
            {
                "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
                "AWS_ACCESS_KEY_ID": "a",
                "AWS_SECRET_ACCESS_KEY": "b",
            },
            "Amazon does not answer",
        ),
        ("botocore", "boto3 is not installed on the server: pip install 'spellrun[aws]'"),
    ],
)
async def test_a_server_that_cannot_ask_amazon_says_why_and_stores_nothing(start, tmp_path, settings, words):
    if isinstance(settings, str):
        settings = amazons.without(settings, tmp_path)
    service = start(SPELL_AWS_ROLE=ROLE, **settings)
    async with service.client() as api:
        error = await refusal(api, REGISTRY, None, None)

        assert words in error.message
        assert REGISTRY not in await known(api)


@pytest.mark.parametrize(
    ("registry", "username", "password", "code", "field"),
    [
        (REGISTRY, None, None, "registry_role_missing", "registry"),
        (REGISTRY, "AWS", "s3cret-s3cret", "registry_login_fleeting", "username"),
        (REGISTRY, "robot", "s3cret-s3cret", "secret_invalid", "username"),
        (REGISTRY, "ABCDEFGHIJKL", None, "secret_invalid", "password"),
        (REGISTRY, None, "s3cret-s3cret", "secret_invalid", "username"),
        ("registry.example.org", None, None, "secret_invalid", "username"),
    ],
)
async def test_a_login_that_makes_no_sense_for_amazon_is_refused(
    storage, registry, username, password, code, field
):
    async with storage.client() as api:
        error = await refusal(api, registry, username, password)

    assert (error.code, error.field) == (code, field)
    assert "s3cret" not in error.message
