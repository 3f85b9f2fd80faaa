"""What builds have downloaded is kept within its limit, and whatever goes can be had again."""

import asyncio
import os
import time
from pathlib import Path

import pytest

from spell_builder import uv
from spell_builder.caches import Caches
from spell_builder.repositories import Repositories
from spell_proto.http import Caller

pytestmark = pytest.mark.integration
MB = 1 << 20


def caches(builder, bytes_max: int, working: int = 0) -> Caches:
    repositories = Repositories(builder.data / "git", Caller("unix:///nobody"))
    program = uv.locate(os.environ, builder.data, repositories)
    return Caches(program, builder.data, bytes_max, lambda: (working, 1))


def aged(path: Path, days: float) -> None:
    """Make everything there look unused for so long."""
    then = time.time() - days * 24 * 3600
    for each in (path, *path.rglob("*")):
        os.utime(each, (then, then), follow_symlinks=False)


def archives(builder, name: str) -> list[Path]:
    return list((builder.data / "uv-cache").glob(f"archive-v*/*/{name}-*.dist-info"))


@pytest.fixture(name="packages", autouse=True)
def _packages(index, channel):
    for name in ("alpha", "beta", "gamma"):
        index.add(name, "1.0", text="x" * MB)
    channel.add_python()
    channel.add("delta", "1.0")


async def test_within_the_limit_nothing_goes(builder):
    await builder.ensure("alpha", "beta")
    before = archives(builder, "*")

    left = await caches(builder, 100 * MB).run_once(time.time())

    assert 2 * MB < left < 100 * MB
    assert archives(builder, "*") == before


async def test_the_longest_unused_packages_go_first_and_can_be_had_again(builder):
    answers = [await builder.ensure(name) for name in ("alpha", "beta", "gamma")]
    for name, days in (("alpha", 2), ("beta", 3)):
        for info in archives(builder, name):
            aged(info.parent, days)
    size = await caches(builder, 10**12).run_once(time.time())

    left = await caches(builder, size - MB // 2).run_once(time.time())

    assert left < size - MB // 2
    assert not archives(builder, "beta")
    assert archives(builder, "gamma")
    await builder.call("POST", "/environments/collect")
    again = await builder.ensure("alpha", "beta", "gamma")
    assert again.ready["key"] not in {answer.ready["key"] for answer in answers}


async def test_conda_packages_and_repositories_go_too_but_none_that_a_build_may_hold(builder):
    first = await builder.ensure(conda="dependencies: [delta]\n")
    repositories = builder.data / "git"
    for name, age in (("old.git", 2.0), ("new.git", 0.0)):
        (repositories / name).mkdir(parents=True)
        (repositories / name / "pack").write_bytes(b"x" * MB)
        aged(repositories / name, age)

    await caches(builder, 0).run_once(time.time())

    assert [each.name for each in repositories.iterdir()] == ["new.git"]
    assert not [each for each in (builder.data / "conda-cache/packages").iterdir() if each.is_dir()]
    await builder.end()
    await asyncio.to_thread(remove_environments, builder.data)
    await builder.start()
    again = await builder.ensure(conda="dependencies: [delta]\n")
    assert again.ready == {**first.ready, "cached": False}


async def test_while_something_is_built_nothing_is_taken_from_it(builder):
    await builder.ensure(conda="dependencies: [delta]\n")
    before = sorted((builder.data / "conda-cache/packages").iterdir())

    await caches(builder, 0, working=1).run_once(time.time())

    assert sorted((builder.data / "conda-cache/packages").iterdir()) == before


async def test_what_an_earlier_process_has_left_goes(builder):
    git = builder.data / "git"
    left = [git / name for name in (".old-x", ".new-x", ".view-x")]
    for path in left:
        path.mkdir(parents=True)
    (git / "a.git/objects/pack").mkdir(parents=True)
    left.append(git / "a.git/objects/pack/tmp_pack_x")
    left[-1].write_bytes(b"x")
    aged(git, 2.0)
    kept = [git / ".view-y", git / "a.git/objects/pack/tmp_pack_y"]
    kept[0].mkdir()
    kept[1].write_bytes(b"x")

    await caches(builder, 10**12).run_once(time.time())

    assert not [path for path in left if path.exists()]
    assert all(path.exists() for path in kept)


async def test_a_cache_of_somebody_else_is_neither_used_nor_made_smaller(builder, tmp_path):
    other = tmp_path / "cache-of-another"
    other.mkdir()
    (other / "CACHEDIR.TAG").write_text("x")
    (other / "kept").write_text("x")
    await builder.end()
    builder.environment["UV_CACHE_DIR"] = str(other)
    await builder.start()
    await builder.ensure("alpha")
    environ = os.environ | {"UV_CACHE_DIR": str(other)}
    program = uv.locate(environ, builder.data, Repositories(builder.data / "git", Caller("unix:///nobody")))

    await Caches(program, builder.data, 0, lambda: (0, 1)).run_once(time.time())

    assert {path.name for path in other.iterdir()} == {"CACHEDIR.TAG", "kept"}
    assert not archives(builder, "alpha")


def remove_environments(data: Path) -> None:
    for path in (data / "environments").iterdir():
        path.rename(data / f"gone-{path.name}")
