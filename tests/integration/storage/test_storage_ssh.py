"""What the SSH endpoint refuses, tried with the real ssh and git clients."""

import asyncio
import subprocess
from pathlib import Path

import asyncssh
import pytest

from integration.storage.children import Children
from integration.storage.git_people import a_person, a_repository, code_of, commit_of
from support.git_https import ENVIRONMENT

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
        f'git-receive-pack "/{own}.git"',
        f"git-receive-pack '/{own}.git",
        f"git-receive-pack  '/{own}.git'",
        f"git-receive-pack '/{own}'",
        f"git-receive-pack --help '/{own}.git'",
        "git-receive-pack --help",
        "git-receive-pack '--help'",
        f"git-receive-pack --upload-pack=id '/{own}.git'",
        f"git-receive-pack '/{own}.git';id",
        f"git-receive-pack '/{own}.git' && id",
        f"git-receive-pack '/{own}.git'\nid",
        f"git-receive-pack '/{own}.git' '/{own}.git'",
        f"git-receive-pack '/{own}.git'$(id)",
        f"git-receive-pack '/{own}.git`id`'",
        f"git-receive-pack '/{own}\\.git'",
        f"git-receive-pack '/{own}.git\\0'",
        f"git-receive-pack '/{own}.git/../{own}.git'",
        f"git-receive-pack '/{person.owner_id}/../{own}.git'",
        f"git-receive-pack '../../{own}.git'",
        f"git-receive-pack '/{own}.git/hooks'",
        f"git-receive-pack '~git/{own}.git'",
        f"git-receive-pack '/0{own}.git'",
        f"git-receive-pack '/-{own}.git'",
        f"git-receive-pack '/{person.owner_id}/{'9' * 30}.git'",
        f"git-receive-pack '/{person.owner_id}/\u0661.git'",
        f"git-receive-pack '/{person.owner_id}/999999.git'",
        "git-receive-pack '/etc'",
        "git-receive-pack ''",
        "git-receive-pack",
        f"GIT_TRACE=1 git-receive-pack '/{own}.git'",
        f"env git-receive-pack '/{own}.git'",
        "git-shell -c id",
        "id",
        "scp -t /tmp/x",
        "scp -f /etc/passwd",
        "rsync --server . /tmp",
        "/usr/lib/openssh/sftp-server",
        "internal-sftp",
        "sh -c id",
        "/bin/sh",
        " ",
        "x" * 20_000,
    )


async def test_every_other_command_is_refused_and_starts_no_process(api, storage, person):
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    children = Children(storage)

    for command in hostile_commands(person, repository):
        done = await asyncio.to_thread(person.ssh, command)
        assert done.returncode == 128, command
        assert done.stdout == b"", command
        assert done.stderr.startswith(b"spell: "), command

    assert not children.any()
    # It would have been seen.
    await asyncio.to_thread(person.push, repository)
    assert children.any()


async def test_a_command_with_a_nul_is_refused_and_starts_no_process(api, storage, person):
    """The real client cannot say this."""
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    own = f"/{person.owner_id}/{repository.id}.git"
    children = Children(storage)

    async with asyncssh.connect(
        "127.0.0.1",
        storage.ssh_port,
        username="git",
        client_keys=[str(person.directory / "key")],
        known_hosts=None,
        config=None,
    ) as connection:
        for command in (
            f"git-receive-pack '{own}'\0",
            f"git-receive-pack '{own}\0'",
            f"git-receive-pack\0'{own}'",
            "\0",
        ):
            done = await connection.run(command)
            assert done.exit_status == 128, command
            assert done.stdout == ""
        with pytest.raises((asyncssh.Error, OSError)):
            await connection.start_sftp_client()

    assert not children.any()


async def test_shell_terminal_and_subsystems_are_refused(api, storage, person):
    children = Children(storage)

    shell = person.ssh(given=b"id\n")
    terminal = person.ssh("id", options=["-tt"])
    subsystems = [person.ssh(name, options=["-s"]) for name in ("sftp", "netconf", "sh", "git-receive-pack")]

    for done in (shell, terminal, *subsystems):
        assert done.returncode != 0
        assert done.stdout == b""
    assert b"PTY allocation request failed" in terminal.stderr
    assert not children.any()


@pytest.mark.parametrize("program", [["scp", "-O"], ["scp", "-s"]], ids=["old protocol", "sftp protocol"])
@pytest.mark.parametrize("direction", ["from", "to"])
async def test_scp_is_refused(storage, person, program, direction):
    here, there = str(person.directory / "copied"), "git@127.0.0.1:/tmp/spell-copied"
    (person.directory / "mine").write_text("x")
    paths = [there.replace("/tmp/spell-copied", "/etc/passwd"), here]
    if direction == "to":
        paths = [str(person.directory / "mine"), there]
    children = Children(storage)

    copied = subprocess.run(
        [*program, *person.ssh_options, "-P", str(person.port), *paths],
        env=ENVIRONMENT,
        capture_output=True,
        timeout=20,
        check=False,
    )

    assert copied.returncode != 0
    assert not Path(here).exists()
    assert not Path("/tmp/spell-copied").exists()
    assert not children.any()


async def test_sftp_is_refused(storage, person):
    done = subprocess.run(
        ["sftp", *person.ssh_options, "-P", str(person.port), "-b", "-", "git@127.0.0.1"],
        input=b"get /etc/passwd\n",
        env=ENVIRONMENT,
        cwd=person.directory,
        capture_output=True,
        timeout=20,
        check=False,
    )

    assert done.returncode != 0
    assert not (person.directory / "passwd").exists()


async def test_fetching_is_refused(api, storage, person):
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    person.push(repository)
    children = Children(storage)

    for words in (["fetch", "-q"], ["ls-remote"], ["archive", "--format=tar", "HEAD", "--remote"]):
        done = person.git(*words, repository.remote_url, check=False)
        assert done.returncode != 0
        assert done.stdout == b""
    assert not children.any()


async def test_passwords_are_no_way_in(storage, person):
    options = ["-o", "BatchMode=no", "-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1"]
    for methods in ("password", "keyboard-interactive", "hostbased", "gssapi-with-mic", "none"):
        done = subprocess.run(
            [
                *("ssh", *options, *person.ssh_options, "-o", f"PreferredAuthentications={methods}"),
                *("-p", str(person.port), "git@127.0.0.1", "id"),
            ],
            env={**ENVIRONMENT, "SSH_ASKPASS": "/bin/echo", "SSH_ASKPASS_REQUIRE": "force"},
            capture_output=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 255, methods
        # The one way that is offered.
        assert b"Permission denied (publickey)" in done.stderr, methods


async def test_environment_of_the_client_reaches_nothing(api, person):
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    proof = person.directory / "proof"
    given = (
        f"GIT_TRACE={proof} GIT_SSH_COMMAND=false LD_PRELOAD={proof} SPELL_PUSHED={proof} "
        f"GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=core.hooksPath GIT_CONFIG_VALUE_0={proof} GIT_DIR=/nonexistent"
    )
    options = ["-o", f"SetEnv={given}"]

    done = person.ssh(
        f"git-receive-pack '/{person.owner_id}/{repository.id}.git'", options=options, given=b"0000"
    )

    assert done.returncode == 0
    assert not proof.exists()


async def test_the_servers_key_stays_over_restarts(own_storage, tmp_path):
    person = own_storage.person(tmp_path / "one")
    before = person.ssh("id")

    own_storage.stop()
    await asyncio.to_thread(own_storage.start)
    after = person.ssh("id")

    # The client checks it against the one it knows.
    assert before.stderr == after.stderr
    assert (own_storage.data / "ssh_host_ed25519_key").stat().st_mode & 0o777 == 0o600


async def test_a_changed_key_of_the_server_is_an_error_of_the_client(storage, person, tmp_path):
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "k"], check=True, timeout=20
    )
    known = person.directory / "known_hosts"
    known.write_text(f"[127.0.0.1]:{person.port} {(tmp_path / 'k.pub').read_text()}")

    done = person.ssh("id")

    assert done.returncode == 255
    assert b"Host key verification failed" in done.stderr
