"""Pushes with the real git and ssh clients, and everything else that those clients may try."""

import asyncio
import itertools
import json
import os
import shlex
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from spell_proto.errors import RefusedError
from spell_proto.http import Caller
from spell_proto.views import Commit, Repository, RepositoryList
from spell_storage import git

pytestmark = pytest.mark.integration

REPOSITORY = TypeAdapter(Repository)
REPOSITORIES = TypeAdapter(RepositoryList)
COMMIT = TypeAdapter(Commit)
_owners = itertools.count(7_000)
_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    **{f"GIT_{who}_{what}": "x@y" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
}


@dataclass
class Person:
    """Somebody with a key, and a repository on their disk."""

    owner_id: int
    directory: Path
    port: int
    ssh_options: list[str]

    def git(self, *arguments, check=True, **environment):
        done = subprocess.run(
            ["git", "-C", str(self.directory / "work"), *arguments],
            env={
                **_ENVIRONMENT,
                "GIT_SSH_COMMAND": shlex.join(["ssh", *self.ssh_options]),
                "GIT_TERMINAL_PROMPT": "0",
                **environment,
            },
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert not check or done.returncode == 0, done.stderr.decode()
        return done

    def rev(self, name="HEAD"):
        return self.git("rev-parse", name).stdout.decode().strip()

    def commit(self, **files):
        for name, data in files.items():
            path = self.directory / "work" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", "x")
        return self.rev()

    def push(self, repository, commit=None, ref=None, *options, check=True):
        commit = commit or self.rev()
        target = ref or f"refs/heads/br_{commit}"
        return self.git("push", "-q", *options, repository.remote_url, f"{commit}:{target}", check=check)

    def ssh(self, *words, options=(), user="git", given=b""):
        return subprocess.run(
            ["ssh", *self.ssh_options, *options, "-p", str(self.port), f"{user}@127.0.0.1", *words],
            env=_ENVIRONMENT,
            input=given,
            capture_output=True,
            timeout=20,
            check=False,
        )


def a_person(storage, directory, *, known=True):
    owner_id = next(_owners)
    (directory / "work").mkdir(parents=True)
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / "key"], check=True, timeout=20
    )
    shown = subprocess.run(
        ["ssh-keygen", "-lf", directory / "key.pub"], check=True, capture_output=True, timeout=20
    ).stdout.decode()
    if known:
        storage.owners[shown.split()[1]] = owner_id
    host = (storage.data / "ssh_host_ed25519_key.pub").read_text()
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{storage.ssh_port} {host}")
    options = ["-F", "/dev/null", "-i", str(directory / "key")]
    for option in (
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={directory}/known_hosts",
        "BatchMode=yes",
        "LogLevel=ERROR",
    ):
        options += ["-o", option]
    person = Person(owner_id, directory, storage.ssh_port, options)
    person.git("init", "-q")
    return person


@pytest.fixture
def person(storage, tmp_path):
    return a_person(storage, tmp_path / "one")


@pytest.fixture
def other(storage, tmp_path):
    return a_person(storage, tmp_path / "two")


async def a_repository(api, person, root=None, name="project"):
    return await api.call(
        "PUT",
        f"/code/{person.owner_id}/repositories",
        REPOSITORY,
        body={"root_commit": root or person.rev(), "name": name},
    )


async def commit_of(api, person, commit):
    return await api.call("GET", f"/code/{person.owner_id}/commits/{commit}", COMMIT)


async def code_of(api, person, commit):
    """The code of a refusal to know a commit."""
    with pytest.raises(RefusedError) as refused:
        await commit_of(api, person, commit)
    return refused.value.code


async def files_of(api, person, repository, commit):
    async with api.open(
        "GET", f"/code/{person.owner_id}/{repository.id}/trees/{commit}", stream=True
    ) as response:
        data = await response.read()
    files, position = {}, 0
    while True:
        end = data.index(b"\n", position)
        head = json.loads(data[position:end])
        if "end" in head:
            assert (head["end"], end + 1) == (len(files), len(data))
            return files
        content = data[end + 1 : end + 1 + head["size"]]
        files[bytes.fromhex(head["path_hex"])] = (head["mode"], content)
        position = end + 1 + head["size"]


async def test_a_repository_is_one_per_owner_and_root_commit(api, person, other):
    root = person.commit(a=b"1")

    first = await a_repository(api, person)
    renamed = await a_repository(api, person, root, "renamed")
    others = await a_repository(api, other, root)
    listed = await api.call("GET", f"/code/{person.owner_id}/repositories", REPOSITORIES)

    assert first.remote_url == f"ssh://git@127.0.0.1:{person.port}/{person.owner_id}/{first.id}.git"
    assert (renamed.id, renamed.name, renamed.created_at) == (first.id, "renamed", first.created_at)
    assert renamed.updated_at > first.updated_at
    assert others.id != first.id
    assert listed.repositories == (renamed,)


async def test_a_pushed_commit_and_its_history_are_known_and_nothing_else(api, person, other):
    older = person.commit(a=b"1")
    newer = person.commit(b=b"2")
    repository = await a_repository(api, person, older)
    unknown_before = await code_of(api, person, newer)

    person.push(repository)
    known = await commit_of(api, person, newer)
    ancestor = await commit_of(api, person, older)
    again = await commit_of(api, person, older)

    assert unknown_before == "commit_unknown"
    assert known.tree == person.rev("HEAD^{tree}")
    assert (known.repository_id, known.repository) == (repository.id, "project")
    assert ancestor == again
    assert ancestor.tree == person.rev("HEAD~^{tree}")
    assert await code_of(api, other, newer) == "commit_unknown"
    # A blob, a tree and a number out of thin air are no commits.
    assert await code_of(api, person, person.rev("HEAD:a")) == "commit_unknown"
    assert await code_of(api, person, person.rev("HEAD^{tree}")) == "commit_unknown"
    assert await code_of(api, person, "1" * 40) == "commit_unknown"


async def test_the_name_of_a_known_commits_repository_follows(api, person):
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    person.push(repository)
    await commit_of(api, person, person.rev())

    await a_repository(api, person, None, "other name")

    assert (await commit_of(api, person, person.rev())).repository == "other name"


async def test_the_tree_stream_holds_every_file_as_it_is(api, person):
    work = person.directory / "work"
    awkward = b"sp ace\n\"quote'\xff"
    (work / os.fsdecode(awkward)).write_bytes(b"odd\n")
    (work / "link").symlink_to("dir/run.sh")
    person.commit(**{"empty": b"", "dir/run.sh": b"#!/bin/sh\n", "big": b"\0\n" * 1_000_000, "z/z/z": b"z"})
    (work / "dir/run.sh").chmod(0o755)
    (work / ".gitattributes").write_text("* text eol=crlf filter=evil\nbig export-ignore\n")
    commit = person.commit()
    repository = await a_repository(api, person)
    person.push(repository)

    files = await files_of(api, person, repository, commit)

    assert files == {
        b".gitattributes": ("100644", b"* text eol=crlf filter=evil\nbig export-ignore\n"),
        b"big": ("100644", b"\0\n" * 1_000_000),
        b"dir/run.sh": ("100755", b"#!/bin/sh\n"),
        b"empty": ("100644", b""),
        b"link": ("120000", b"dir/run.sh"),
        awkward: ("100644", b"odd\n"),
        b"z/z/z": ("100644", b"z"),
    }


async def test_submodules_are_left_out_of_the_tree_stream(api, person):
    person.commit(a=b"1")
    person.git("update-index", "--add", "--cacheinfo", f"160000,{person.rev()},sub")
    person.git("commit", "-q", "-m", "with a submodule")
    repository = await a_repository(api, person)
    person.push(repository)

    assert set(await files_of(api, person, repository, person.rev())) == {b"a"}


async def test_a_tree_is_not_served_for_what_was_not_pushed(api, person, other):
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    others = await a_repository(api, other, person.rev())
    person.push(repository)

    for someone, where, commit in [
        (other, repository, person.rev()),
        (person, others, person.rev()),
        (person, repository, "2" * 40),
    ]:
        with pytest.raises(RefusedError) as refused:
            await files_of(api, someone, where, commit)
        assert refused.value.status == 404


async def test_an_empty_tree_is_a_tree(api, person):
    commit = person.commit()
    repository = await a_repository(api, person)
    person.push(repository)

    assert await files_of(api, person, repository, commit) == {}


async def test_sha256_repositories_work_too(api, person):
    person.git("init", "-q", "--object-format=sha256", str(person.directory / "work256"))
    (person.directory / "work").rename(person.directory / "sha1")
    (person.directory / "work256").rename(person.directory / "work")
    root = person.commit(a=b"1")
    tip = person.commit(a=b"2")
    repository = await a_repository(api, person, root)
    person.push(repository)

    assert len(tip) == 64
    assert (await commit_of(api, person, tip)).tree == person.rev("HEAD^{tree}")
    assert (await commit_of(api, person, root)).tree == person.rev("HEAD~^{tree}")
    assert await files_of(api, person, repository, tip) == {b"a": ("100644", b"2")}


async def test_a_shallow_clone_can_be_pushed(api, person):
    for number in range(4):
        person.commit(a=str(number).encode())
    whole = person.directory / "whole"
    (person.directory / "work").rename(whole)
    subprocess.run(
        ["git", "clone", "-q", "--depth=2", f"file://{whole}", person.directory / "work"],
        env=_ENVIRONMENT,
        check=True,
        timeout=20,
    )
    tip = person.commit(a=b"new")
    repository = await a_repository(api, person, person.rev("HEAD~2"))
    person.push(repository)

    assert await files_of(api, person, repository, tip) == {b"a": ("100644", b"new")}
    assert await files_of(api, person, repository, person.rev("HEAD~1")) == {b"a": ("100644", b"3")}
    deep = subprocess.run(
        ["git", "-C", whole, "rev-parse", "HEAD~3"], env=_ENVIRONMENT, capture_output=True, check=True
    )
    assert await code_of(api, person, deep.stdout.decode().strip()) == "commit_unknown"


@pytest.mark.parametrize("loose", [True, False], ids=["loose", "packed"])
async def test_a_commit_in_a_repository_is_known_only_when_it_is_whole(api, storage, person, loose):
    """An object that lies there without its tree, as hostile or half a push could leave it, is not a known commit."""
    person.commit(a=b"1")
    tip = person.commit(a=b"2")
    repository = await a_repository(api, person)
    kept = storage.data / "git" / str(person.owner_id) / f"{repository.id}.git"
    if loose:
        data = person.git("cat-file", "commit", tip).stdout
        write = ["hash-object", "-t", "commit", "-w", "--stdin"]
    else:
        packed = subprocess.run(
            ["git", "-C", person.directory / "work", "pack-objects", "--stdout"],
            input=f"{tip}\n".encode(),
            env=_ENVIRONMENT,
            capture_output=True,
            check=True,
        )
        data, write = packed.stdout, ["index-pack", "--stdin"]
    subprocess.run(
        ["git", f"--git-dir={kept}", *write], input=data, env=_ENVIRONMENT, check=True, capture_output=True
    )

    assert await code_of(api, person, tip) == "commit_unknown"

    person.push(repository)
    assert (await commit_of(api, person, tip)).commit == tip


@pytest.mark.parametrize(
    "ref",
    ["refs/heads/main", "refs/heads/br_abc", "refs/tags/v1", "refs/kept/x", "refs/heads/br_" + "0" * 40],
)
async def test_only_a_ref_named_after_its_commit_is_accepted(api, person, ref):
    person.commit(a=b"1")
    repository = await a_repository(api, person)

    pushed = person.push(repository, ref=ref, check=False)

    assert pushed.returncode != 0
    assert await code_of(api, person, person.rev()) == "commit_unknown"


async def test_a_pushed_ref_is_never_moved_or_deleted(api, person):
    first = person.commit(a=b"1")
    repository = await a_repository(api, person)
    person.push(repository)
    second = person.commit(a=b"2")

    moved = person.push(repository, second, f"refs/heads/br_{first}", "--force", check=False)
    deleted = person.git("push", "-q", repository.remote_url, f":refs/heads/br_{first}", check=False)

    assert moved.returncode != 0
    assert deleted.returncode != 0
    assert await files_of(api, person, repository, first) == {b"a": ("100644", b"1")}


async def test_objects_that_would_write_into_a_git_directory_are_refused(api, person):
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    tree = subprocess.run(
        ["git", "-C", person.directory / "work", "hash-object", "-t", "tree", "-w", "--stdin", "--literally"],
        input=b"100644 .git\0" + bytes.fromhex(person.rev("HEAD:a")),
        env=_ENVIRONMENT,
        capture_output=True,
        check=True,
    )
    evil = person.git("commit-tree", "-m", "x", tree.stdout.decode().strip()).stdout.decode().strip()

    pushed = person.push(repository, evil, check=False)

    assert pushed.returncode != 0
    assert await code_of(api, person, evil) == "commit_unknown"


async def test_hooks_and_settings_of_a_repository_are_not_looked_at(api, storage, person):
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    kept = storage.data / "git" / str(person.owner_id) / f"{repository.id}.git"
    (kept / "hooks").mkdir(exist_ok=True)
    proof = person.directory / "proof"
    hook = kept / "hooks" / "pre-receive"
    hook.write_text(f"#!/bin/sh\ntouch {proof}\n")
    hook.chmod(0o755)

    person.push(repository)

    assert not proof.exists()
    assert (await commit_of(api, person, person.rev())).commit == person.rev()


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
        env=_ENVIRONMENT,
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


async def test_older_refs_are_kept_but_no_longer_told_about(api, storage, person):
    first = person.commit(a=b"1")
    repository = await a_repository(api, person)
    commits = [first, *(person.commit(a=str(number).encode()) for number in range(4))]
    refs = [f"{commit}:refs/heads/br_{commit}" for commit in commits]
    person.git("push", "-q", repository.remote_url, *refs)
    kept = storage.data / "git" / str(person.owner_id) / f"{repository.id}.git"
    more = "".join(f"create refs/heads/br_{n:040x} {commits[-1]}\n" for n in range(git.ADVERTISED_REFS_MAX))
    subprocess.run(
        ["git", f"--git-dir={kept}", "update-ref", "--stdin"],
        input=more.encode(),
        env=_ENVIRONMENT,
        check=True,
    )

    await git.Repositories(storage.data).tidy(kept)
    tip = person.commit(a=b"tip")
    pushed = person.push(repository, None, None, "--verbose")

    advertised = person.ssh(
        f"git-receive-pack '/{person.owner_id}/{repository.id}.git'", given=b"0000"
    ).stdout
    assert advertised.count(b"refs/") <= git.ADVERTISED_REFS_MAX + 1
    assert b"refs/kept" not in advertised
    assert (await commit_of(api, person, tip)).commit == tip, pushed
    names = subprocess.run(
        ["git", f"--git-dir={kept}", "for-each-ref", "--format=%(refname)", "refs/kept"],
        env=_ENVIRONMENT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    assert f"refs/kept/br_{first}" in names


class HalfPush:
    """A push by hand that stops in the middle of its pack, and goes on when told so."""

    def __init__(self, person, repository, commit):
        objects = person.git("rev-list", "--objects", commit).stdout
        packing = ["git", "-C", person.directory / "work", "pack-objects", "--stdout", "-q"]
        names = b"".join(line.split()[0] + b"\n" for line in objects.splitlines())
        pack = subprocess.run(packing, input=names, env=_ENVIRONMENT, capture_output=True, check=True).stdout
        words = f"git-receive-pack '/{person.owner_id}/{repository.id}.git'"
        self.process = subprocess.Popen(
            ["ssh", *person.ssh_options, "-p", str(person.port), "git@127.0.0.1", words],
            env=_ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        while (size := int(self.process.stdout.read(4), 16)) != 0:
            self.process.stdout.read(size - 4)
        line = f"{'0' * 40} {commit} refs/heads/br_{commit}\0 report-status".encode()
        self.process.stdin.write(b"%04x%b0000" % (len(line) + 4, line) + pack[:-100])
        self.process.stdin.flush()
        self.rest = pack[-100:]

    def finish(self):
        """Send the rest; what the server reports, and the exit status."""
        report = self.process.communicate(self.rest, timeout=20)[0]
        return report, self.process.returncode


async def until_incoming(storage, person, repository):
    """Wait until git has begun to take a pack in."""
    kept = storage.data / "git" / str(person.owner_id) / f"{repository.id}.git"
    async with asyncio.timeout(20):
        while not list(kept.glob("objects/*incoming*")):
            await asyncio.sleep(0.01)


async def test_half_a_push_is_no_push_and_the_next_one_works(own_storage, tmp_path):
    person = a_person(own_storage, tmp_path / "one")
    commit = person.commit(a=os.urandom(100_000))
    async with Caller(own_storage.address) as api:
        repository = await a_repository(api, person)
        half = HalfPush(person, repository, commit)
        await until_incoming(own_storage, person, repository)
        own_storage.stop(signal.SIGKILL)
        await asyncio.to_thread(own_storage.start)

        assert half.process.wait(20) != 0
        assert await code_of(api, person, commit) == "commit_unknown"
        await asyncio.to_thread(person.push, repository)
        assert (await commit_of(api, person, commit)).commit == commit


async def test_a_push_in_hand_is_finished_before_the_service_stops(own_storage, tmp_path):
    person = a_person(own_storage, tmp_path / "one")
    commit = person.commit(a=os.urandom(100_000))
    async with Caller(own_storage.address) as api:
        repository = await a_repository(api, person)
        half = HalfPush(person, repository, commit)
        await until_incoming(own_storage, person, repository)
        stopping = asyncio.create_task(asyncio.to_thread(own_storage.stop))
        async with asyncio.timeout(10):
            while (await asyncio.to_thread(person.ssh, "id")).returncode != 255:
                await asyncio.sleep(0.01)
        report, status = await asyncio.to_thread(half.finish)
        stopped = await stopping
        await asyncio.to_thread(own_storage.start)

        assert b"unpack ok" in report
        assert (status, stopped) == (0, 0)
        assert (await commit_of(api, person, commit)).commit == commit
