"""`spell cluster …-docker-registry` as it is typed: what is stored, what is said, and what is never shown."""

import json
import subprocess

import pytest

from integration.cli.conftest import SPELL

HOST = "registry.example.org:5000"
GOOGLE = "europe-west1-docker.pkg.dev"
KEY = {"type": "service_account", "client_email": "a@b", "private_key": "-----BEGIN\ns3cret\n-----END\n"}


def typed(cli, *words, stdin=b""):
    return subprocess.run(
        [SPELL, "cluster", *words],
        cwd=cli.cwd,
        env=cli.env,
        input=stdin,
        capture_output=True,
        timeout=20,
        check=False,
    )


def out(done):
    assert done.returncode == 0, done
    return done.stdout.decode()


def sent(server):
    return [(path, body) for method, path, _, body in server.asked if method == "PUT"]


def test_a_login_is_stored_listed_and_deleted(cli, server):
    assert out(typed(cli, "list-docker-registries")) == "There are no logins for registries stored.\n"
    words = ("add-docker-registry", "--registry", HOST.upper(), "--username", "alice", "--password-stdin")
    assert (
        out(typed(cli, *words, stdin=b"s3cret\n")) == f"Successfully stored the login of alice for {HOST}.\n"
    )

    assert [body for _, body in sent(server)] == [{"username": "alice", "password": "s3cret"}]
    listed = out(typed(cli, "list-docker-registries")).split()
    assert listed == ["REGISTRY", "USERNAME", "ADDED", HOST, "alice", "2026-11-22", "11:50:00"]
    assert json.loads(out(typed(cli, "list-docker-registries", "--json")))[0]["registry"] == HOST
    deleted = typed(cli, "delete-docker-registry", "--registry", HOST)
    assert out(deleted) == f"Access to {HOST} has been removed\n"
    assert server.registries == []


def test_the_password_is_asked_for_without_being_shown(cli, server):
    terminal = cli.terminal("cluster", "add-docker-registry", "--registry", HOST, "--username", "alice")
    terminal.until(f"Password or access token of alice for {HOST}: ")
    terminal.type("s3cret\n")

    assert terminal.end() == 0
    assert b"s3cret" not in terminal.raw
    assert sent(server)[0][1]["password"] == "s3cret"


def test_googles_registries_take_the_key_of_a_service_account(cli, server):
    """On one line, whatever the file looks like; what is said is the contract's."""
    words = ("add-docker-registry", "--registry", GOOGLE, "--password-stdin")
    done = typed(cli, *words, stdin=json.dumps(KEY, indent=2).encode())

    assert out(done) == (
        "Successfully added permissions, you can now run jobs using your own docker images from GCR!\n"
    )
    ((_, body),) = sent(server)
    assert body["username"] == "_json_key"
    assert json.loads(body["password"]) == KEY
    assert body["password"].isprintable()


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        (b"y\n", 0, "Access to registry removed successfully.\n"),
        (b"n\n", 0, "Access to registry not removed.\n"),
        (b"\n", 0, "Access to registry not removed.\n"),
        (b"", 1, ""),
    ],
)
def test_removing_one_of_googles_is_asked_about(cli, server, answer, code, said):
    server.registries = [{"registry": GOOGLE, "kind": "login", "username": "_json_key", "created_at": ""}]
    done = typed(cli, "delete-docker-registry", "--registry", GOOGLE, stdin=answer)

    assert done.returncode == code
    assert done.stdout.decode().startswith("Comfirm removing access to registry? [y/N]: ")
    assert done.stdout.decode().endswith(said)
    assert (server.registries == []) is (answer == b"y\n")


@pytest.mark.parametrize("command", ["add-docker-registry", "delete-docker-registry"])
def test_a_profile_is_no_option_for_google(cli, server, command):
    done = typed(cli, command, "--registry", GOOGLE, "-p", "work", stdin=b"y\n")

    assert done.returncode == 1
    assert "--profile is not a valid option for GCP clusters" in done.stderr.decode()
    assert server.asked == []


REFUSED = [
    (("--registry", "team"), b"", "is no registry, as in"),
    (("--registry", "https://registry.example.org"), b"", "is no registry, as in"),
    (("--registry", "ada:s3cret@registry.example.org"), b"", "is no registry, as in"),
    (("--registry", "registry.example.org/v2"), b"", "is no registry, as in"),
    (("--registry", "a.org:70000"), b"", "is no registry, as in"),
    (("--registry", "a.org", "--registry", "b.org"), b"", "--registry is given 2 times"),
    (("--registry", ""), b"", "is no registry, as in"),
    (("--registry", HOST), b"", "--username"),
    (("--registry", HOST, "--username", ""), b"", "--username"),
    (("--registry", HOST, "--username", "a"), b"", "--password-stdin"),
    (("--registry", HOST, "--username", "a", "--password", "s3cret"), b"", "No such option"),
    (("--registry", HOST, "--username", "a", "--profile", "x"), b"", "leave out --registry for those"),
    *(
        (("--registry", HOST, "--username", "a", "--password-stdin"), text, "printable ASCII characters")
        for text in (b"", b"\n", b"\xff\n", b"s3cret\0\n", b"s3cret" * 4000)
    ),
    (("--registry", GOOGLE), b"", "--password-stdin < key.json"),
    *(
        (("--registry", GOOGLE, "--password-stdin"), text, "is not the JSON key of a service account")
        for text in (b"", b"s3cret", b"[]", b"{}", b"\xff\xfe", b"{" * 100_000, b'{"client_email": "s3cret"}')
    ),
]


@pytest.mark.parametrize(("words", "stdin", "holds"), REFUSED)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(cli, server, words, stdin, holds):
    done = typed(cli, "add-docker-registry", *words, stdin=stdin)
    complaint = " ".join(done.stderr.decode().split())

    assert done.returncode == 2, done
    assert holds in complaint
    assert "Traceback" not in complaint
    assert "s3cret" not in complaint
    assert server.asked == []


def test_what_the_server_says_of_a_login_is_told(cli, server):
    message = f"registry: {HOST} does not take this user name and password; nothing was stored"
    body = {"code": "registry_login_refused", "field": "password", "message": message, "hint": None}
    server.refusals["PUT", f"/api/registries/{HOST.replace(':', '%3A')}"] = [(422, body)]
    words = ("add-docker-registry", "--registry", HOST, "--username", "alice", "--password-stdin")
    done = typed(cli, *words, stdin=b"s3cret\n")

    assert done.returncode != 0
    assert message in " ".join(done.stderr.decode().split())
    assert b"s3cret" not in done.stdout + done.stderr
