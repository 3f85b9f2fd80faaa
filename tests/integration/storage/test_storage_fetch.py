"""Code that is fetched from another host: a real git server over https."""

import asyncio
import hashlib
import subprocess
from collections import Counter

import pytest
from pydantic import TypeAdapter

from integration.storage.fetching import HOSTS
from integration.storage.git_people import pack_of
from spell_proto.errors import RefusedError
from spell_proto.views import Commit, Repository
from support.git_https import ENVIRONMENT

pytestmark = pytest.mark.integration


async def test_a_branch_a_tag_and_a_hash_are_fetched_with_their_history(host, source, owner):
    first = source.commit(a=b"1")
    source.git("tag", "-a", "v1", "-m", "one")
    source.git("tag", "light")
    source.git("checkout", "-q", "-b", "feature/x")
    second = source.commit(a=b"2")
    url = host.publish(source.work, "team/refs.git")

    found = {
        ref: (await owner.fetch(url, ref)).commit
        for ref in ("main", "feature/x", "v1", "light", "refs/tags/v1", first, second[:9], "HEAD")
    }
    commit = await owner.fetch(url, "feature/x")
    head, _ = await pack_of(owner.api, owner, Repository.model_construct(id=commit.repository_id), second)

    assert found == {
        "main": first,
        "feature/x": second,
        "v1": first,
        "light": first,
        "refs/tags/v1": first,
        first: first,
        second[:9]: second,
        "HEAD": second,
    }
    assert commit.repository == "refs"
    assert await owner.files(commit) == {b"a": ("100644", b"2")}
    assert [name for name, _ in head.tags] == ["v1"]


async def test_without_a_ref_it_is_master_and_otherwise_the_default_branch(host, source, owner):
    main = source.commit(a=b"1")
    url = host.publish(source.work, "team/default")
    of_main = await owner.fetch(url)
    source.git("checkout", "-q", "-b", "master")
    master = source.commit(a=b"2")
    source.git("checkout", "-q", "main")
    host.publish(source.work, "team/default")

    of_master = await owner.fetch(url)

    assert (of_main.commit, of_master.commit) == (main, master)


async def test_a_full_hash_that_is_here_needs_no_network_and_a_branch_is_asked_for_anew(host, source, owner):
    first = source.commit(a=b"1")
    url = host.publish(source.work, "team/cached")
    await owner.fetch(url, "main")
    host.requests.clear()

    again = await owner.fetch(url, first)
    asked_for_hash = list(host.requests)
    same = await owner.fetch(url, "main")
    asked_for_same = list(host.requests)
    second = source.commit(a=b"2")
    host.publish(source.work, "team/cached")
    moved = await owner.fetch(url, "main")

    assert asked_for_hash == []
    assert (again.commit, same.commit, moved.commit) == (first, first, second)
    # Its refs, but no objects.
    assert len(asked_for_same) == 2
    assert await owner.files(again) == {b"a": ("100644", b"1")}


async def test_a_branch_that_was_rewritten_or_replaced_by_a_directory_is_followed(host, source, owner):
    source.commit(a=b"1")
    source.git("branch", "topic")
    url = host.publish(source.work, "team/rewritten")
    old = await owner.fetch(url, "topic")
    source.git("commit", "-q", "--amend", "-m", "another")
    source.git("branch", "-D", "topic")
    source.git("branch", "topic/deeper")
    new = source.git("rev-parse", "HEAD")
    host.publish(source.work, "team/rewritten")

    fetched = await owner.fetch(url, "topic/deeper")

    assert fetched.commit == new
    assert await owner.files(old) == {b"a": ("100644", b"1")}
    assert (await owner.refused(url, "topic"))[0] == "ref_not_found"


async def test_a_commit_on_no_branch_is_fetched_by_its_hash(host, source, owner):
    source.commit(a=b"1")
    lost = source.commit(a=b"lost")
    source.git("branch", "gone")
    url = host.publish(source.work, "team/lost")
    source.git("checkout", "-q", "-B", "main", "HEAD~")
    source.git("branch", "-D", "gone")
    host.publish(source.work, "team/lost")

    assert (await owner.fetch(url, lost)).commit == lost
    code, message = await owner.refused(url, "5" * 40)
    assert (code, message) == ("ref_not_found", f"{url}: there is no commit {'5' * 40}")


async def test_a_beginning_of_several_hashes_is_ambiguous(host, source, owner):
    source.commit(a=b"1")
    tree = source.git("rev-parse", "HEAD^{tree}")
    texts = [
        f"tree {tree}\nauthor x <x@y> {second} +0000\ncommitter x <x@y> {second} +0000\n\nx\n".encode()
        for second in range(2_000)
    ]
    names = [hashlib.sha1(b"commit %d\0" % len(text) + text).hexdigest() for text in texts]
    starts = Counter(name[:4] for name in names)
    start = next(start for start, count in starts.items() if count == 2)
    for text, name in zip(texts, names, strict=True):
        if name.startswith(start):
            subprocess.run(
                ["git", "-C", source.work, "hash-object", "-t", "commit", "-w", "--stdin"],
                input=text,
                env=ENVIRONMENT,
                check=True,
                capture_output=True,
            )
            source.git("branch", f"b{name}", name)
    url = host.publish(source.work, "team/ambiguous")

    code, message = await owner.refused(url, start)

    assert (code, message) == ("ref_ambiguous", f"{url}: 2 commits begin with {start}")
    assert (await owner.refused(url, "0000"))[0] == "ref_not_found"


async def test_fetched_repositories_are_listed_with_their_address(host, source, owner):
    source.commit(a=b"1")
    url = host.publish(source.work, "team/listed.git")
    commit = await owner.fetch(url)

    (listed,) = await owner.repositories()

    assert (listed.id, listed.name, listed.url, listed.remote_url, listed.root_commit) == (
        commit.repository_id,
        "listed",
        url,
        "",
        None,
    )
    # What was fetched was not pushed: the command line goes on to push its own.
    with pytest.raises(RefusedError) as refused:
        await owner.api.call("GET", f"/code/{owner.owner_id}/commits/{commit.commit}", TypeAdapter(Commit))
    assert refused.value.code == "commit_unknown"


async def test_the_hosts_are_told(host, owner):
    assert (await owner.api.call("GET", "/git-hosts", HOSTS)).hosts == (host.host,)


async def test_those_who_ask_at_once_share_one_fetch(host, source, owner):
    source.commit(a=b"1")
    url = host.publish(source.work, "team/shared")
    host.requests.clear()

    commits = await asyncio.gather(*(owner.fetch(url, "main") for _ in range(8)))

    assert len(set(commits)) == 1
    assert sum("git-upload-pack" in line for line in host.requests if "team/shared" in line) <= 6
