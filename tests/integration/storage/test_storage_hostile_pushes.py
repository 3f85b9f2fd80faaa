"""Pushes that git itself would not make: bad packs, bad objects, bad refs, and clients that dawdle."""

import asyncio
import os
import subprocess
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import asyncssh
import pytest

from integration.storage.git_people import a_repository, code_of, commit_of, files_of, git_in
from spell_proto.http import Caller
from support.git_https import ENVIRONMENT

pytestmark = pytest.mark.integration

ZERO = "0" * 40
PUSH_BYTES_MAX = 1 << 20


@pytest.fixture(scope="module")
def strict(postgres, module_storage):
    """A service with limits that a test can reach."""
    return module_storage(
        postgres.url("storage"),
        SPELL_GIT_PUSH_BYTES_MAX=str(PUSH_BYTES_MAX),
        SPELL_GIT_PUSH_REFS_MAX="100",
        SPELL_GIT_REFS_MAX="150",
        SPELL_GIT_PUSH_SECONDS_MAX="6",
        SPELL_GIT_PUSH_SILENT_SECONDS_MAX="2",
        SPELL_SSH_CONNECTIONS_MAX="3",
    )


@pytest.fixture
def pusher(strict, tmp_path):
    return strict.person(tmp_path / "pusher")


@pytest.fixture
async def strict_api(strict):
    async with Caller(strict.address) as caller:
        yield caller


def line(text):
    return b"%04x" % (len(text) + 4) + text


def raw_push(person, repository, commands, pack=b"", input_after=b""):
    """Say to the server what git would say, with any refs and any pack."""
    lines = [f"{old} {new} ".encode() + ref for old, new, ref in commands]
    lines[0] += b"\0 report-status"
    return person.ssh(
        f"git-receive-pack '/{person.owner_id}/{repository.id}.git'",
        given=b"".join(map(line, lines)) + b"0000" + pack + input_after,
    )


def pack_with(person, names):
    return subprocess.run(
        ["git", "-C", person.directory / "work", "pack-objects", "--stdout", "-q"],
        input="".join(f"{name}\n" for name in names).encode(),
        env=ENVIRONMENT,
        capture_output=True,
        check=True,
    ).stdout


def everything(person, commit):
    printed = person.git("rev-list", "--objects", commit).stdout.decode()
    return [line.split()[0] for line in printed.splitlines()]


def written(person, kind, data):
    made = subprocess.run(
        ["git", "-C", person.directory / "work", "hash-object", "-t", kind, "-w", "--stdin", "--literally"],
        input=data,
        env=ENVIRONMENT,
        capture_output=True,
        check=True,
    )
    return made.stdout.decode().strip()


def kept_at(storage, person, repository) -> Path:
    return storage.data / "git" / str(person.owner_id) / f"{repository.id}.git"


def new_ref(commit):
    return (ZERO, commit, f"refs/heads/br_{commit}".encode())


def entry(mode, name, sha):
    return mode + b" " + name + b"\0" + bytes.fromhex(sha)


BAD_TREES = {
    "dot dot": lambda blob, tree: entry(b"40000", b"..", tree),
    "dot": lambda blob, tree: entry(b"40000", b".", tree),
    "git directory": lambda blob, tree: entry(b"40000", b".git", tree),
    "git directory in capitals": lambda blob, tree: entry(b"40000", b".GIT", tree),
    "git directory by its short name": lambda blob, tree: entry(b"40000", b"git~1", tree),
    "git directory with a stream": lambda blob, tree: entry(b"40000", b".git::$INDEX_ALLOCATION", tree),
    "git directory with a sign HFS ignores": lambda blob, tree: entry(b"40000", ".g\u200cit".encode(), tree),
    "git directory behind a backslash": lambda blob, tree: entry(b"100644", b"a\\.git\\config", blob),
    "git directory as a link": lambda blob, tree: entry(b"120000", b".git", blob),
    "modules file as a link": lambda blob, tree: entry(b"120000", b".gitmodules", blob),
    "a path for a name": lambda blob, tree: entry(b"100644", b"a/b", blob),
    "an absolute path": lambda blob, tree: entry(b"100644", b"/etc/passwd", blob),
    "no name": lambda blob, tree: entry(b"100644", b"", blob),
    "one name twice": lambda blob, tree: entry(b"100644", b"a", blob) * 2,
    "a file and a directory of one name": lambda blob, tree: (
        entry(b"100644", b"a", blob) + entry(b"40000", b"a", tree)
    ),
    "out of order": lambda blob, tree: entry(b"100644", b"b", blob) + entry(b"100644", b"a", blob),
    "no object": lambda blob, tree: entry(b"100644", b"a", ZERO),
    "an object that is missing": lambda blob, tree: entry(b"100644", b"a", "7" * 40),
    "cut off": lambda blob, tree: entry(b"100644", b"a", blob)[:-3],
}


@pytest.mark.parametrize("name", BAD_TREES)
async def test_a_bad_tree_is_refused(api, storage, person, name):
    good = person.commit(**{"d/a": b"../../../../etc/passwd"})
    repository = await a_repository(api, person)
    blob, tree = person.rev("HEAD:d/a"), person.rev("HEAD:d")
    bad = written(person, "tree", BAD_TREES[name](blob, tree))
    data = f"tree {bad}\nauthor x <x@y> 0 +0000\ncommitter x <x@y> 0 +0000\n\nx\n".encode()
    commit = written(person, "commit", data)

    done = raw_push(person, repository, [new_ref(commit)], pack_with(person, [commit, bad, tree, blob]))

    assert b"unpack ok" not in done.stdout or b"ng refs/heads" in done.stdout, done
    assert await code_of(api, person, commit) == "commit_unknown"
    assert git_in(kept_at(storage, person, repository), "for-each-ref") == b""
    person.push(repository, good)


async def test_an_old_history_with_modes_that_git_no_longer_writes_is_taken(api, person):
    """Files that their group may write to: git wrote such trees in its first years."""
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    blob = person.rev("HEAD:a")
    tree = written(person, "tree", entry(b"100664", b"a", blob) + entry(b"100775", b"b", blob))
    data = f"tree {tree}\nauthor x <x@y> 0 +0000\ncommitter x <x@y> 0 +0000\n\nx\n".encode()
    commit = written(person, "commit", data)

    person.push(repository, commit)

    assert (await commit_of(api, person, commit)).tree == tree


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pack: pack[:-1] + bytes([pack[-1] ^ 1]),
        lambda pack: pack[:60] + bytes([pack[60] ^ 0xFF]) + pack[61:],
        lambda pack: pack[:-200],
        lambda pack: b"PACK\0\0\0\2\xff\xff\xff\xff" + pack[12:],
        lambda pack: b"\0" * 5_000,
        lambda pack: b"",
    ],
    ids=["checksum", "content", "cut off", "count", "no pack", "nothing"],
)
async def test_a_corrupt_pack_is_refused_and_leaves_nothing(api, storage, person, spoil):
    commit = person.commit(a=os.urandom(2_000))
    repository = await a_repository(api, person)
    pack = pack_with(person, everything(person, commit))

    done = raw_push(person, repository, [new_ref(commit)], spoil(pack))

    assert b"unpack ok" not in done.stdout
    kept = kept_at(storage, person, repository)
    assert git_in(kept, "cat-file", "--batch-all-objects", "--batch-check") == b""
    assert list(kept.glob("objects/tmp_*")) == []
    person.push(repository)
    assert (await commit_of(api, person, commit)).commit == commit


async def test_a_pack_without_all_that_its_commit_needs_is_refused(api, person):
    commit = person.commit(a=b"1", b=b"2")
    repository = await a_repository(api, person)
    blob = person.rev("HEAD:b")

    done = raw_push(
        person,
        repository,
        [new_ref(commit)],
        pack_with(person, [name for name in everything(person, commit) if name != blob]),
    )

    assert b"ng refs/heads" in done.stdout
    assert await code_of(api, person, commit) == "commit_unknown"


@pytest.mark.parametrize(
    "ref",
    [
        b"-h",
        b"HEAD",
        b"../../x",
        b"refs/../config",
        b"refs/heads/../../config",
        b"refs/kept/../heads/x",
        b"refs/kept/x",
        b"refs/fetched/x",
        b"refs/heads/other",
        b"refs/heads/-h",
        b"refs/heads/br_%b/x",
        b"refs/heads/br_%b ",
        b"refs/heads/br_%b.lock",
        b"refs/heads/br_%b\ncreate refs/heads/x",
        b"refs/heads/$(id)",
        b"refs/remotes/origin/x",
        b"refs/replace/%b",
        b"refs/stash",
        b"config",
        b"objects/info/alternates",
        b"/etc/x",
        b"refs/tags/..",
        b"refs/tags/",
        b"refs/tags/%b",
    ],
)
async def test_a_hostile_ref_is_refused(api, storage, person, ref):
    commit = person.commit(a=b"1")
    repository = await a_repository(api, person)
    kept = kept_at(storage, person, repository)
    before = sorted(path for path in kept.rglob("*") if "objects" not in path.parts)
    ref = ref.replace(b"%b", commit.encode())

    done = raw_push(person, repository, [(ZERO, commit, ref)], pack_with(person, everything(person, commit)))

    assert b"ok refs" not in done.stdout, done
    assert git_in(kept, "for-each-ref") == b""
    assert sorted(path for path in kept.rglob("*") if "objects" not in path.parts) == before
    assert not (kept / "objects/info/alternates").exists()


async def test_deleting_and_forging_old_values_is_refused(api, storage, person):
    commit = person.commit(a=b"1")
    repository = await a_repository(api, person)
    person.push(repository)
    ref = f"refs/heads/br_{commit}".encode()

    deleted = raw_push(person, repository, [(commit, ZERO, ref)])
    forged = raw_push(person, repository, [("1" * 40, commit, ref)], pack_with(person, [commit]))

    assert b"ok refs" not in deleted.stdout
    assert b"ok refs" not in forged.stdout
    assert git_in(kept_at(storage, person, repository), "rev-parse", ref.decode()).decode().strip() == commit


async def test_a_pack_above_the_limit_is_refused(strict, strict_api, pusher):
    small = pusher.commit(a=os.urandom(1_000))
    repository = await a_repository(strict_api, pusher)
    pusher.push(repository)
    large = pusher.commit(a=os.urandom(2 * PUSH_BYTES_MAX))

    pushed = pusher.push(repository, check=False)

    assert pushed.returncode != 0
    assert b"pack exceeds maximum allowed size" in pushed.stderr
    assert await code_of(strict_api, pusher, large) == "commit_unknown"
    assert (await commit_of(strict_api, pusher, small)).commit == small
    kept = kept_at(strict, pusher, repository)
    assert sum(file.stat().st_size for file in kept.rglob("*") if file.is_file()) < PUSH_BYTES_MAX // 2


async def test_ten_thousand_refs_are_refused_before_git_has_read_them(strict, strict_api, pusher):
    commit = pusher.commit(a=b"1")
    repository = await a_repository(strict_api, pusher)
    commands = [(ZERO, commit, b"refs/tags/v%d" % number) for number in range(10_000)]

    done = raw_push(pusher, repository, commands, pack_with(pusher, everything(pusher, commit)))

    assert done.stderr == b"spell: at most 100 refs per push\n"
    assert done.returncode == 1
    assert git_in(kept_at(strict, pusher, repository), "for-each-ref") == b""


async def test_a_repository_has_so_many_refs_at_most(strict, strict_api, pusher):
    commit = pusher.commit(a=b"1")
    repository = await a_repository(strict_api, pusher)
    pusher.push(repository)
    more = "".join(f"create refs/heads/br_{number:040x} {commit}\n" for number in range(1, 151))
    git_in(kept_at(strict, pusher, repository), "update-ref", "--stdin", given=more.encode())
    pusher.commit(a=b"2")

    pushed = pusher.push(repository, check=False)

    assert b"spell: this repository has 151 refs already" in pushed.stderr


def begun_push(person, repository, stack):
    process = stack.enter_context(
        subprocess.Popen(
            [
                *("ssh", *person.ssh_options, "-p", str(person.port), "git@127.0.0.1"),
                f"git-receive-pack '/{person.owner_id}/{repository.id}.git'",
            ],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    )
    stack.callback(process.kill)
    return process


async def test_a_client_that_says_nothing_is_sent_away(strict_api, pusher):
    pusher.commit(a=b"1")
    repository = await a_repository(strict_api, pusher)

    with ExitStack() as stack:
        process = begun_push(pusher, repository, stack)
        await asyncio.to_thread(process.wait, 15)
        said = process.stderr.read()

    assert said == b"spell: nothing was heard for 2 s\n"
    assert process.returncode == 1


async def test_a_client_that_never_ends_is_sent_away(strict_api, pusher):
    commit = pusher.commit(a=os.urandom(200_000))
    repository = await a_repository(strict_api, pusher)
    pack = pack_with(pusher, everything(pusher, commit))
    lines = line(f"{ZERO} {commit} refs/heads/br_{commit}\0 report-status".encode()) + b"0000"

    with ExitStack() as stack:
        process = begun_push(pusher, repository, stack)
        process.stdin.write(lines + pack[:1_000])
        process.stdin.flush()
        started, sent = time.monotonic(), 1_000
        while process.poll() is None and time.monotonic() - started < 20:
            try:
                process.stdin.write(pack[sent : sent + 1])
                process.stdin.flush()
            except BrokenPipeError:
                break
            sent += 1
            await asyncio.sleep(0.1)
        await asyncio.to_thread(process.wait, 10)
        said = process.stderr.read()

    assert b"spell: the push took too long" in said
    assert time.monotonic() - started < 12


async def test_connections_above_the_limit_are_cut(strict, pusher):
    key = str(pusher.directory / "key")
    async with AsyncExitStack() as connections:
        for _ in range(3):
            connecting = asyncssh.connect(
                "127.0.0.1", strict.ssh_port, username="git", client_keys=[key], known_hosts=None, config=None
            )
            await connections.enter_async_context(connecting)
        refused = await asyncio.to_thread(pusher.ssh, "id")
    async with asyncio.timeout(10):
        while (again := await asyncio.to_thread(pusher.ssh, "id")).returncode == 255:
            await asyncio.sleep(0.05)

    assert refused.returncode == 255
    assert again.stderr.startswith(b"spell: only git push")


async def test_files_that_look_like_a_repository_are_only_files(api, storage, person):
    """Hooks, settings, alternates, attributes and filters in a pushed tree are data."""
    proof = person.directory / "proof"
    script = f"#!/bin/sh\ntouch {proof}\n".encode()
    files = {
        "HEAD": b"ref: refs/heads/main\n",
        "config": f'[core]\n\tfsmonitor = "touch {proof}"\n\thooksPath = hooks\n'.encode(),
        "objects/info/alternates": b"/etc\n",
        "hooks/pre-receive": script,
        "hooks/post-receive": script,
        ".gitattributes": b"* filter=evil diff=evil merge=evil\n",
        ".gitconfig": f'[filter "evil"]\n\tsmudge = touch {proof}\n'.encode(),
        ".lfsconfig": b"[lfs]\n\turl = https://127.0.0.1/\n",
        "sub/.gitmodules.txt": b"x",
    }
    for name in ("hooks/pre-receive", "hooks/post-receive"):
        path = person.directory / "work" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(script)
        path.chmod(0o755)
    (person.directory / "work" / "link").symlink_to("../../../../../../etc/passwd")
    commit = person.commit(**files)
    repository = await a_repository(api, person)

    person.push(repository)
    laid = await files_of(api, person, repository, commit)

    assert laid[b"link"] == ("120000", b"../../../../../../etc/passwd")
    assert {name.encode() for name in files} < set(laid)
    assert not proof.exists()
    kept = kept_at(storage, person, repository)
    assert not (kept / "objects/info/alternates").exists()
    assert "evil" not in (kept / "config").read_text()
