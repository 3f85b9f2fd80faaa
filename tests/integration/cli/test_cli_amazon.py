"""The dialogues about repositories of Amazon's, as the contract has them, and what they change at Amazon."""

import pytest

from integration.cli.test_cli_registries import typed
from support import amazon as amazons
from support.amazon import REGISTRY, REPOSITORIES, ROLE, arn

ADD = ("add-docker-registry",)
DELETE = ("delete-docker-registry",)
PROFILE = (
    "AWS profile 'default' which has Access Key ID 'ABCDEFGHIJKL' and region 'us-west-2' - continue? [y/N]: "
)
DIALOGUE = f"""This command will
    - Allow Spell to get authorization tokens to access your docker registry
    - If no repository is specified, list your repositories in the registry
    - Add read permissions for that repository to the IAM role associated with the cluster
All of this will be done with your {PROFILE}"""
LISTED = """Spell does not yet have access to the following repos found in your AWS account:
- image-gan
- image-processing
- text-generation
Please choose a repository: """
FIRST = """Successfully added read permission to text-generation
You can now run using images from repository text-generation
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with amazons.amazon(tmp_path_factory.mktemp("amazon")) as made:
        yield made


@pytest.fixture
def amazon(running, cli, server):
    """Three repositories, and a cluster with a role that may do nothing."""
    running.reset()
    cli.env |= running.variables()
    server.aws_role = ROLE
    return running


def out(done):
    assert done.returncode == 0, done
    assert b"s3cret" not in done.stdout + done.stderr
    return done.stdout.decode()


def readable(amazon):
    found = amazon.policies().get("SpellECRRead", [{"Resource": []}])
    return found[0]["Resource"]


def stored(server):
    return [body for method, path, _, body in server.asked if method == "PUT" and "amazonaws" in path]


def test_a_repository_is_chosen_and_the_role_may_read_it(cli, server, amazon):
    said = out(typed(cli, *ADD, stdin=b"y\ntext-generation\n"))

    assert said == DIALOGUE + LISTED + FIRST
    assert amazon.policies() == {
        "SpellECRTokens": [
            {
                "Sid": "SpellGetsLogins",
                "Effect": "Allow",
                "Action": ["ecr:GetAuthorizationToken"],
                "Resource": "*",
            }
        ],
        "SpellECRRead": [
            {
                "Sid": "SpellReadsImages",
                "Effect": "Allow",
                "Action": [
                    "ecr:BatchCheckLayerAvailability",
                    "ecr:BatchGetImage",
                    "ecr:GetDownloadUrlForLayer",
                ],
                "Resource": [arn("text-generation")],
            }
        ],
    }
    assert stored(server) == [{"username": None, "password": None}]
    assert server.registries[0]["registry"] == REGISTRY


@pytest.mark.parametrize("answer", [b"n\n", b"\n"])
@pytest.mark.parametrize("command", [ADD, DELETE])
def test_who_says_no_is_left_alone(cli, server, amazon, command, answer):
    said = out(typed(cli, *command, stdin=answer))

    assert said.endswith("continue? [y/N]: ")
    assert amazon.policies() == {}
    assert [method for method, *_ in server.asked] == ["GET"]


def test_a_wrong_choice_is_asked_again(cli, server, amazon):
    """What is not there, and what may be read already."""
    out(typed(cli, *ADD, "--repo", "image-gan", stdin=b"y\n"))
    said = out(typed(cli, *ADD, stdin=b"y\nnothing\nimage-gan\ntext-generation\n"))

    assert "- image-gan\n" not in said
    assert "No repository named nothing found\nPlease choose a repository: " in said
    assert "Spell already has permissions to access image-gan\nPlease choose a repository: " in said
    assert said.endswith("Successfully added read permission to text-generation\n")
    assert readable(amazon) == [arn("image-gan"), arn("text-generation")]


def test_a_repository_that_is_named_is_not_asked_for(cli, server, amazon):
    assert out(typed(cli, *ADD, "--repo", "text-generation", stdin=b"y\n")) == DIALOGUE + FIRST
    again = out(typed(cli, *ADD, "--repo", "text-generation", stdin=b"y\n"))
    assert again == (
        f"{DIALOGUE}Policy SpellECRRead of {ROLE} already has permissions to access text-generation\n"
    )
    assert len(stored(server)) == 2  # what a server has lost comes back
    unknown = typed(cli, *ADD, "--repo", "nothing", stdin=b"y\n")
    assert unknown.returncode == 1
    assert "No repository named nothing found" in unknown.stderr.decode()


def test_when_everything_may_be_read_there_is_nothing_to_choose(cli, server, amazon):
    for name in REPOSITORIES:
        out(typed(cli, *ADD, "--repo", name, stdin=b"y\n"))

    said = out(typed(cli, *ADD, stdin=b"y\n"))

    assert said == DIALOGUE + "Spell already has access to all repos found in your AWS account\n"
    assert readable(amazon) == [arn(name) for name in REPOSITORIES]


def test_amazon_is_given_time_to_believe_its_own_policies(cli, server, amazon):
    body = {"code": "registry_login_refused", "field": "password", "message": "not yet", "hint": None}
    server.refusals["PUT", f"/api/registries/{REGISTRY}"] = [(422, body)]

    assert out(typed(cli, *ADD, "--repo", "text-generation", stdin=b"y\n")) == DIALOGUE + FIRST
    assert len(stored(server)) == 2
    server.refusals["PUT", f"/api/registries/{REGISTRY}"] = [(422, body | {"code": "registry_role_missing"})]
    refused = typed(cli, *ADD, "--repo", "image-gan", stdin=b"y\n")
    assert refused.returncode != 0
    assert "not yet" in refused.stderr.decode()
    assert "Successfully" not in refused.stdout.decode()


def test_access_is_taken_away_one_by_one_and_the_policies_with_the_last(cli, server, amazon):
    for name in ("image-gan", "text-generation"):
        out(typed(cli, *ADD, "--repo", name, stdin=b"y\n"))

    one = out(typed(cli, *DELETE, stdin=b"y\nimage-processing\nimage-gan\n"))
    assert one.partition("continue? [y/N]: ")[2] == (
        "Spell has access to the following repos:\n- image-gan\n- text-generation\n"
        "Please choose a repository: Spell has no access to repository named image-processing\n"
        "Please choose a repository: Access to image-gan has been removed\n"
    )
    assert readable(amazon) == [arn("text-generation")]
    assert server.registries != []
    refused = typed(cli, *DELETE, "--repo", "image-gan", stdin=b"y\n")
    assert refused.returncode == 1
    assert "Spell has no access to repository named image-gan" in refused.stderr.decode()
    last = out(typed(cli, *DELETE, "--repo", "text-generation", stdin=b"y\n"))
    assert last.partition("continue? [y/N]: ")[2] == (
        "Removing ECR policy and token generation policy as no remaining ECR repos are accessible.\n"
        "Access to text-generation has been removed\n"
    )
    assert amazon.policies() == {}
    assert server.registries == []
    none = out(typed(cli, *DELETE, stdin=b"y\n"))
    assert none.endswith("Spell does not have access to any docker repositories in your registry\n")


def test_another_profile_is_named_in_the_question(cli, server, amazon):
    (cli.home / ".aws").mkdir()
    (cli.home / ".aws/config").write_text("[profile work]\nregion = eu-central-1\n")
    (cli.home / ".aws/credentials").write_text(
        "[work]\naws_access_key_id = WORK\naws_secret_access_key = s3cret\n"
    )
    del cli.env["AWS_DEFAULT_REGION"]
    said = out(typed(cli, *ADD, "-p", "work", stdin=b"n\n"))

    assert "AWS profile 'work' which has Access Key ID 'WORK' and region 'eu-central-1'" in said


def no_role(cli, server, tmp_path):
    server.aws_role = None


def no_profile(cli, server, tmp_path):
    cli.env["AWS_PROFILE"] = "nothing"


def no_key(cli, server, tmp_path):
    del cli.env["AWS_ACCESS_KEY_ID"], cli.env["AWS_SECRET_ACCESS_KEY"]
    cli.env["AWS_EC2_METADATA_DISABLED"] = "true"


def no_region(cli, server, tmp_path):
    del cli.env["AWS_DEFAULT_REGION"]


def no_boto(cli, server, tmp_path):
    cli.env |= amazons.without("boto3", tmp_path)


def no_answer(cli, server, tmp_path):
    cli.env |= {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1"}


def foreign_role(cli, server, tmp_path):
    server.aws_role = ROLE.replace("123456789012", "210987654321")


def missing_role(cli, server, tmp_path):
    server.aws_role = ROLE + "-2"


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (no_role, "This cluster has no IAM role: an operator names it in SPELL_AWS_ROLE."),
        (no_profile, "AWS profile 'default' cannot be used: The config profile (nothing) could not be found"),
        (no_key, "AWS profile 'default' has no access key here. Make one known with: aws configure"),
        (no_region, "AWS profile 'default' has no region. Set one with: aws configure set region REGION"),
        (
            no_boto,
            "boto3, which speaks to AWS, is not installed here. Install it with: pip install 'spellrun[aws]'",
        ),
        (no_answer, "cannot be used: Could not connect to the endpoint URL"),
        (foreign_role, "belongs to the account 123456789012, and the cluster's role"),
        (missing_role, "AWS refused GetRole: "),
    ],
)
@pytest.mark.parametrize("command", [ADD, DELETE])
def test_what_is_missing_is_said_in_a_sentence(cli, server, amazon, tmp_path, command, broken, words):
    broken(cli, server, tmp_path)
    done = typed(cli, *command, "--repo", "text-generation", stdin=b"y\n")
    complaint = " ".join(done.stderr.decode().split())

    assert done.returncode == 1
    assert words in complaint
    assert "Traceback" not in complaint
    assert "s3cret" not in complaint
    assert stored(server) == []
    assert amazon.policies() == {}


def test_amazon_may_refuse_and_its_words_are_told(cli, server, amazon):
    key = amazon.person(
        "ada", "sts:GetCallerIdentity", "ecr:DescribeRepositories", "iam:GetRole", "iam:GetRolePolicy"
    )
    cli.env |= amazon.variables(*key)
    amazon.guard()
    try:
        done = typed(cli, *ADD, "--repo", "text-generation", stdin=b"y\n")
    finally:
        amazon.unguard()

    assert done.returncode == 1
    assert (
        "AWS refused PutRolePolicy: User: arn:aws:iam::123456789012:user/ada is not authorized"
        in " ".join(done.stderr.decode().split())
    )
    assert stored(server) == []


@pytest.mark.parametrize("given", ["\x1b[31mred", "a\nb", "", "x" * 5_000, "../x", "ä"])
@pytest.mark.parametrize("command", [ADD, DELETE])
def test_odd_names_are_told_so_that_a_terminal_bears_them(cli, server, amazon, command, given):
    out(typed(cli, *ADD, "--repo", "image-gan", stdin=b"y\n"))
    named = typed(cli, *command, "--repo", given, stdin=b"y\n")
    profile = typed(cli, *command, "-p", given or "\x1b", stdin=b"n\n")

    for done in (named, profile):
        assert done.returncode == 1
        assert b"\x1b" not in done.stdout + done.stderr
        assert b"Traceback" not in done.stderr
    assert readable(amazon) == [arn("image-gan")]


@pytest.mark.parametrize(
    "words",
    [
        ("--username", "a"),
        ("--password-stdin",),
        ("--registry", REGISTRY, "--username", "a", "--repo", "b"),
        ("--registry", REGISTRY, "--username", "a", "-p", "b"),
        ("--registry", REGISTRY, "--password-stdin"),
        ("--repo", "a", "--repo", "b"),
        ("text-generation",),
    ],
)
def test_options_of_the_two_ways_do_not_mix(cli, server, words):
    done = typed(cli, *ADD, *words, stdin=b"y\n")

    assert done.returncode == 2
    assert server.asked == []
