"""People with keys and repositories on their disks, who push with the real git and ssh clients."""

import asyncio
import itertools
import json
import shlex
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from spell_proto.errors import RefusedError
from spell_proto.views import Commit, PackHead, Repository, RepositoryList
from support.git_https import ENVIRONMENT

REPOSITORY = TypeAdapter(Repository)
REPOSITORIES = TypeAdapter(RepositoryList)
COMMIT = TypeAdapter(Commit)
_owners = itertools.count(7_000)


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
                **ENVIRONMENT,
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

    def work_in_a_shallow_clone(self, *, commits, depth):
        """Make that many commits, and go on in a clone that has the last `depth` of them: where they all lie."""
        work, whole = self.directory / "work", self.directory / "whole"
        for number in range(commits):
            self.commit(a=str(number).encode())
        work.rename(whole)
        clone = ["git", "clone", "-q", f"--depth={depth}", f"file://{whole}", work]
        subprocess.run(clone, env=ENVIRONMENT, check=True, timeout=20)
        return whole

    def push(self, repository, commit=None, ref=None, *options, check=True):
        commit = commit or self.rev()
        target = ref or f"refs/heads/br_{commit}"
        return self.git("push", "-q", *options, repository.remote_url, f"{commit}:{target}", check=check)

    def ssh(self, *words, options=(), user="git", given=b""):
        return subprocess.run(
            ["ssh", *self.ssh_options, *options, "-p", str(self.port), f"{user}@127.0.0.1", *words],
            env=ENVIRONMENT,
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


def posted(api, path, body):
    """What is answered to a body of JSON, to be read as it comes."""
    headers = {"Content-Type": "application/json"}
    return api.open("POST", path, data=json.dumps(body).encode(), headers=headers, stream=True)


async def pack_of(api, person, repository, *want, have=()):
    """What a machine is sent: the head, and the pack."""
    body = {"want": want, "have": list(have)}
    async with posted(api, f"/code/{person.owner_id}/{repository.id}/pack", body) as response:
        line, _, pack = (await response.read()).partition(b"\n")
    return PackHead.model_validate_json(line), pack


def git_in(directory, *arguments, given=b"", check=True):
    """What git prints in a repository."""
    return subprocess.run(
        ["git", f"--git-dir={directory}", *arguments],
        input=given,
        env=ENVIRONMENT,
        capture_output=True,
        timeout=30,
        check=check,
    ).stdout


def take_in(directory, head, pack, *, sha256=False):
    """Store a pack as a machine does: in a repository of its own, which is made when there is none."""
    if not directory.exists():
        kind = "sha256" if sha256 else "sha1"
        subprocess.run(
            ["git", "init", "-q", "--bare", f"--object-format={kind}", directory], env=ENVIRONMENT, check=True
        )
    git_in(directory, "index-pack", "--stdin", "--fix-thin", "--keep", given=pack)
    if head.shallow:
        (directory / "shallow").write_text("".join(f"{name}\n" for name in head.shallow))


async def files_of(api, person, repository, commit):
    """The files of a commit, from the pack that a machine is sent."""
    head, pack = await pack_of(api, person, repository, commit)
    with tempfile.TemporaryDirectory() as parent:
        directory = Path(parent) / "machine.git"
        take_in(directory, head, pack, sha256=len(commit) == 64)
        git_in(directory, "rev-list", "--objects", commit)
        files = {}
        for line in git_in(directory, "ls-tree", "-r", "-z", commit).split(b"\0")[:-1]:
            about, path = line.split(b"\t", 1)
            mode, kind, blob = about.decode().split()
            if kind == "blob":
                files[path] = (mode, git_in(directory, "cat-file", "blob", blob))
    return files


class HalfPush:
    """A push by hand that stops in the middle of its pack, and goes on when told so."""

    def __init__(self, person, repository, commit):
        objects = person.git("rev-list", "--objects", commit).stdout
        packing = ["git", "-C", person.directory / "work", "pack-objects", "--stdout", "-q"]
        names = b"".join(line.split()[0] + b"\n" for line in objects.splitlines())
        pack = subprocess.run(packing, input=names, env=ENVIRONMENT, capture_output=True, check=True).stdout
        words = f"git-receive-pack '/{person.owner_id}/{repository.id}.git'"
        self.process = subprocess.Popen(
            ["ssh", *person.ssh_options, "-p", str(person.port), "git@127.0.0.1", words],
            env=ENVIRONMENT,
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
