"""What the SSH endpoint refuses, tried with the real ssh and git clients."""

import subprocess

import pytest

from integration.storage.git_people import ENVIRONMENT, a_person, a_repository, code_of, commit_of

pytestmark = pytest.mark.integration


async def test_another_owners_repository_cannot_be_pushed_to(api, person, other):
    other.commit(a=b"1")
    theirs = await a_repository(api, person, other.rev())

    pushed = other.push(theirs, check=False)

    assert pushed.returncode != 0
    assert b"no such repository" in pushed.stderr


async def test_an_unknown_key_gets_nowhere(api, storage, person, tmp_path):
    stranger = a_person(storage, tmp_path / "stranger", known=False)
    stranger.commit(a=b"1")
    repository = await a_repository(api, person, stranger.rev())

    pushed = stranger.push(repository, check=False)

    assert pushed.returncode != 0
    assert b"Permission denied (publickey)" in pushed.stderr


async def test_offering_somebodys_public_key_gives_none_of_their_rights(api, person, other):
    """A server is asked about a key before it is proven: only the proven one may count."""
    other.commit(a=b"1")
    theirs = await a_repository(api, person, other.rev())
    own = await a_repository(api, other)
    (other.directory / "theirs.pub").write_bytes((person.directory / "key.pub").read_bytes())
    other.ssh_options[2:2] = ["-i", str(other.directory / "theirs.pub")]

    refused = other.push(theirs, check=False)
    other.push(own)

    assert b"no such repository" in refused.stderr
    assert (await commit_of(api, other, other.rev())).repository_id == own.id
    assert await code_of(api, person, other.rev()) == "commit_unknown"


async def test_only_the_user_git_may_log_in(person):
    assert b"Permission denied (publickey)" in person.ssh("true", user="root").stderr


def hostile_commands(person, repository):
    """What a client might ask for instead."""
    own = f"{person.owner_id}/{repository.id}"
    yield from (
        f"git-upload-pack '/{own}.git'",
        f"git-upload-archive '/{own}.git'",
        f"git receive-pack '/{own}.git'",
        f"git-receive-pack /{own}.git",
        f"git-receive-pack --help '/{own}.git'",
        f"git-receive-pack '/{own}.git';id",
        f"git-receive-pack '/{own}.git'\nid",
        f"git-receive-pack '/{person.owner_id}/../{own}.git'",
        f"git-receive-pack '../../{own}.git'",
        f"git-receive-pack '/0{own}.git'",
        f"git-receive-pack '/{person.owner_id}/999999.git'",
        "git-receive-pack '/etc'",
        "id",
        "scp -t /tmp/x",
        "/usr/lib/openssh/sftp-server",
        "sh -c id",
    )


async def test_every_other_command_is_refused(api, person):
    person.commit(a=b"1")
    repository = await a_repository(api, person)

    for command in hostile_commands(person, repository):
        done = person.ssh(command)
        assert done.returncode == 128, command
        assert done.stdout == b"", command
        assert done.stderr.startswith(b"spell: "), command


async def test_shell_pty_sftp_scp_and_fetch_are_refused(api, person):
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    person.push(repository)

    shell = person.ssh(given=b"id\n")
    terminal = person.ssh("id", options=["-tt"])
    sftp = person.ssh("sftp", options=["-s"])
    copied = subprocess.run(
        ["scp", *person.ssh_options, "-P", str(person.port), "git@127.0.0.1:/etc/passwd", person.directory],
        env=ENVIRONMENT,
        capture_output=True,
        timeout=20,
        check=False,
    )
    fetched = person.git("fetch", "-q", repository.remote_url, check=False)

    for done in (shell, terminal, sftp, copied, fetched):
        assert done.returncode != 0
        assert b"uid=" not in done.stdout
    assert not (person.directory / "passwd").exists()


@pytest.mark.parametrize(
    "options",
    [["-W", "127.0.0.1:22"], ["-N", "-R", "0:127.0.0.1:22", "-o", "ExitOnForwardFailure=yes"]],
    ids=["local", "remote"],
)
async def test_forwarding_is_refused(person, options):
    done = person.ssh(options=options)

    assert done.returncode != 0


async def test_environment_of_the_client_reaches_nothing(api, person):
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    proof = person.directory / "proof"
    options = ["-o", f"SetEnv=GIT_TRACE={proof} GIT_SSH_COMMAND=false LD_PRELOAD={proof}"]

    done = person.ssh(
        f"git-receive-pack '/{person.owner_id}/{repository.id}.git'", options=options, given=b"0000"
    )

    assert done.returncode == 0
    assert not proof.exists()
