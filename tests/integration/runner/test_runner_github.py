"""Code that a run names by a URL: fetched once, from a real git server, whatever dies meanwhile."""

import itertools
import json
import re

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")
_NUMBERS = itertools.count()


@pytest.fixture
def published(services, tmp_path):
    """A repository on the git server: its URL, and a function that puts another commit on its branch."""
    name = f"team/project-{next(_NUMBERS)}.git"
    work = tmp_path / "work"
    git = services.git.git
    git("init", "-q", "-b", "trunk", str(work))

    def commit(**files: str) -> str:
        for file, content in files.items():
            (work / file).write_text(content)
        git("-C", str(work), "add", "--all")
        git("-C", str(work), "commit", "-qm", "a commit")
        services.git.publish(work, name)
        return git("-C", str(work), "rev-parse", "HEAD").strip()

    first = commit(main="echo first")
    git("-C", str(work), "tag", "-a", "-m", "one", "v1")
    return services.git.url(name), first, commit


def fetched(here, run_id):
    """The steps of an attempt that say which commit was fetched."""
    steps = [json.loads(line) for line in here.steps(run_id).splitlines()]
    return [step["commit"] for step in steps if step["kind"] == "code_fetched"]


@pytest.mark.parametrize("isolation", ["none", "unshare"])
async def test_a_run_has_the_code_that_its_url_names(rooms, published, isolation):
    here = await rooms(isolation)
    url, first, commit = published
    second = commit(main="echo second")
    command = "pwd; sh main; git rev-parse HEAD; git describe; git status --porcelain; echo x > made"

    view = await here.until_final(await here.create(command, github={"url": url, "ref": None}))
    older = await here.until_final(await here.create("sh main", github={"url": url, "ref": first}))

    where, *said = (await here.output(view.id)).decode().splitlines()
    directory = url.rpartition("/")[2].removesuffix(".git")
    assert where.endswith(f"/{directory}")
    assert said == ["second", second, f"v1-1-g{second[:7]}"]
    assert (view.spec.code.commit, view.spec.code.root_directory, view.spec.code.cwd) == (
        second,
        directory,
        ".",
    )
    assert await here.output(older.id) == b"first\n"
    assert await here.files(view) == {"made": b"x\n"}
    await here.assert_whole(view)


async def test_code_that_cannot_be_fetched_fails_the_run_in_one_sentence(rooms, services, published):
    here = await rooms("none")
    url, *_ = published
    for github, said in (
        ({"url": services.git.url("nobody/nothing"), "ref": None}, "nobody/nothing"),
        ({"url": url, "ref": "no-such-branch"}, "no-such-branch"),
        ({"url": "https://127.0.0.2/x/y", "ref": None}, "127.0.0.2"),
    ):
        view = await here.until_final(await here.create("true", github=github))

        assert (view.state, view.reason) == ("failed", "code_fetch")
        assert said in view.message
        assert any(view.message in line for line in await here.lines(view.id))
        await here.assert_whole(view)


async def test_a_storage_that_is_away_is_waited_for_and_a_stop_ends_the_wait(rooms, published):
    here = await rooms("none")
    here.front.broken = re.compile("/fetch")
    url, first, _ = published
    run_ids = [await here.create("git rev-parse HEAD", github={"url": url, "ref": None}) for _ in range(2)]
    await here.until_true(lambda: sum(one.endswith("/fetch") for one in here.front.asked) > 2)

    await here.client.end(run_ids[0], "stop")
    stopped = await here.until_final(run_ids[0])
    here.front.broken = None
    view = await here.until_final(run_ids[1])

    assert stopped.state == "killed"
    assert (view.state, await here.output(view.id)) == ("complete", f"{first}\n".encode())
    await here.assert_whole(stopped)


async def killed_after_a_fetch(here, published):
    """A run whose runner was killed once it had fetched the code. Its branch has moved on, and its builder is held up."""
    url, _, commit = published
    here.builder.known = False
    here.builder.release.clear()
    run_id = await here.create("sh main", github={"url": url, "ref": None})
    await here.until_true(lambda: fetched(here, run_id))
    here.runner.kill9()
    commit(main="echo second")
    return run_id


async def test_a_runner_that_is_killed_after_a_fetch_goes_on_with_that_commit(rooms, published):
    here = await rooms("none")
    _, first, _ = published
    run_id = await killed_after_a_fetch(here, published)
    here.front.asked.clear()

    here.runner.start()
    here.builder.release.set()
    await here.until_true(lambda: len(here.steps(run_id).splitlines()) > 1)

    assert fetched(here, run_id) == [first]
    view = await here.until_final(run_id)
    assert (view.state, await here.output(run_id)) == ("complete", b"first\n")
    assert view.spec.code.commit == first
    assert not [one for one in here.front.asked if one.endswith("/fetch")]
    await here.assert_whole(view)


async def test_a_runner_that_is_killed_before_it_told_what_it_fetched_tells_it_once(rooms, published):
    """The commit is written down before anything else is: as if the runner had died right then."""
    here = await rooms("none")
    _, first, _ = published
    run_id = await killed_after_a_fetch(here, published)
    (here.attempt(run_id) / "steps.jsonl").write_bytes(b"")

    here.runner.start()
    await here.until_true(lambda: fetched(here, run_id))
    here.builder.release.set()
    view = await here.until_final(run_id)

    assert (view.state, view.spec.code.commit) == ("complete", first)
    assert await here.output(run_id) == b"first\n"
    await here.assert_whole(view)
