"""A private registry as an administrator adds it and a person uses it, against a whole stack and a real registry."""

import base64
import json
import re
from collections.abc import Iterator

import pytest

from support import amazon as amazons
from support import docker as daemons
from support import registries
from support.standalone import Stack, prepared

pytestmark = pytest.mark.e2e
SECRET = "hunter2-hunter2-hunter2"
KEY = {"type": "service_account", "client_email": "a@b", "private_key": f"-----BEGIN\n{SECRET}\n"}


@pytest.fixture(scope="module", name="daemon")
def _daemon() -> Iterator[daemons.Docker]:
    try:
        with daemons.running() as daemon:
            yield daemon
    except daemons.NoDockerError as error:
        daemons.absent(str(error))


@pytest.fixture(scope="module", name="amazon")
def _amazon(tmp_path_factory) -> Iterator[amazons.Amazon]:
    with amazons.amazon(tmp_path_factory.mktemp("amazon")) as amazon:
        amazon.reset()
        yield amazon


@pytest.fixture(scope="module", name="stack")
def _stack(daemon, amazon, tmp_path_factory) -> Iterator[Stack]:
    home = tmp_path_factory.mktemp("home")
    (home / ".aws").mkdir()
    (home / ".aws/config").write_text(
        f"[default]\nregion = {amazons.REGION}\nendpoint_url = {amazon.url}\n"
        "aws_access_key_id = ABCDEFGHIJKL\naws_secret_access_key = s3cret\n"
    )
    with prepared(slots=2, grace_seconds=2) as stack:
        # Neither who starts the stack nor who types has keys in variables, which are of a shell and not of a server.
        stack.environment = {
            key: value for key, value in stack.environment.items() if not key.startswith("AWS_")
        }
        stack.environment["HOME"] = str(home)
        stack.environment["SPELL_AWS_ROLE"] = amazons.ROLE
        stack.environment["SPELL_DOCKER_SOCKET"] = str(daemon.socket)
        stack.environment["SPELL_DOCKER_REGISTRIES"] = "docker.io,127.0.0.1:*"
        stack.up()
        yield stack


@pytest.mark.parametrize(
    ("user", "password", "given"),
    [
        ("alice", SECRET, SECRET + "\n"),
        ("_json_key", json.dumps(KEY, separators=(",", ":")), json.dumps(KEY, indent=2)),
    ],
    ids=["password", "key"],
)
def test_a_private_image_runs_once_its_registry_is_added_and_the_login_is_found_nowhere(
    stack, daemon, tmp_path, user, password, given
):
    """The log, the events, the answers, every file of the stack, and what Docker knows are searched for it."""
    with registries.registry(tmp_path, user, password) as host:
        image = f"{host}/team/tiny:1"
        registries.push(daemon, daemons.TINY, image, user, password)
        words = ("cluster", "add-docker-registry", "--registry", host, "--username", user, "--password-stdin")

        refused = stack.spell("run", "--docker-image", image, "true")
        wrong = stack.spell(*words, stdin=given.replace("hunter2", "hunter3").replace("a@b", "c@d"))
        added = stack.spell(*words, stdin=given)
        ran = stack.spell("run", "--docker-image", image, "env; echo it ran")

    assert refused.rc == 70, refused
    assert f"spell cluster add-docker-registry --registry {host}" in " ".join(
        refused.stderr.split() + refused.stdout.split()
    )
    assert wrong.rc != 0
    assert "does not take this user name and password" in " ".join(wrong.stderr.split())
    assert added.rc == 0, added
    assert ran.rc == 0, ran
    assert "it ran" in ran.stdout
    run_id = re.search(r"Casting spell #(\d+)", ran.stdout)[1]
    listed = stack.spell("cluster", "list-docker-registries")
    assert host in listed.stdout
    asked = [
        stack.spell(*line) for line in (("info", run_id, "--json"), ("logs", run_id), ("events", "--json"))
    ]
    told = "".join(result.stdout + result.stderr for result in (refused, wrong, added, ran, listed, *asked))
    docker = [daemon.ask("GET", f"/images/{image}/{what}") for what in ("json", "history")]
    kept = [path for path in stack.directory.rglob("*") if path.is_file() and not path.is_symlink()]
    written = (SECRET, base64.b64encode(f"{user}:{password}".encode()).decode(), json.dumps(password)[1:-1])
    for secret in written:
        assert secret not in told
        assert secret not in json.dumps(docker)
        assert not [path for path in kept if path.exists() and secret.encode() in path.read_bytes()]
    removed = stack.spell("cluster", "delete-docker-registry", "--registry", host)
    assert removed.rc == 0, removed
    assert stack.json("cluster", "list-docker-registries") == []
    stack.verify()


def test_a_repository_of_amazons_is_added_and_removed_and_the_server_gets_its_logins(stack, amazon):
    added = stack.spell("cluster", "add-docker-registry", stdin="y\ntext-generation\n")
    listed = stack.json("cluster", "list-docker-registries")
    allowed = stack.spell(
        "run", "--dry-run", "--docker-image", f"{amazons.REGISTRY}/text-generation:1", "true"
    )
    removed = stack.spell("cluster", "delete-docker-registry", "--repo", "text-generation", stdin="y\n")

    assert added.rc == 0, added
    assert "Successfully added read permission to text-generation\n" in added.stdout
    assert [(one["registry"], one["kind"], one["username"]) for one in listed] == [
        (amazons.REGISTRY, "aws_role", amazons.ROLE)
    ]
    assert allowed.rc == 0, allowed
    assert removed.rc == 0, removed
    assert removed.stdout.endswith("Access to text-generation has been removed\n")
    assert stack.json("cluster", "list-docker-registries") == []
    assert amazon.policies() == {}
