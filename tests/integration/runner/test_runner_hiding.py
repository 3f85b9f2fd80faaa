"""What a mount hides of the code of a run, where it has no place, and what no run can come near to by it."""

import pytest

from integration.runner.stowing import mount, stow

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.parametrize("way", ["none", "unshare"])
async def test_what_a_mount_hides_of_the_code_is_said(rooms, way):
    here = await rooms(way)
    manifest = await stow(here, {"d/a": b"mounted"})
    given = here.front.shelf.code({"train.py": b"code", "new/other": b""})
    mounts = [mount(here, manifest, f"/spell/repo/{at}", "d") for at in ("train.py", "new/place")]

    run_id = await here.create("cat train.py/a new/place/a", code=given, mounts=mounts)
    view = await here.until_final(run_id)

    assert (view.state, await here.output(run_id)) == ("complete", b"mounted" * 2)
    assert [line for line in await here.lines(run_id) if "hidden" in line] == [
        "/spell/repo/train.py of the code is hidden by the mount of runs/1"
    ]


@pytest.mark.parametrize(("at", "what"), [("train.py", "file"), ("slink", "link")])
async def test_nothing_is_mounted_below_a_file_or_through_a_link_of_the_code(rooms, at, what):
    here = await rooms("unshare")
    manifest = await stow(here, {"d/a": b"mounted"})
    given = here.front.shelf.code({"train.py": b"code", "sub/x": b"", "slink": ("120000", b"sub")})

    run_id = await here.create("true", code=given, mounts=[mount(here, manifest, f"/spell/repo/{at}/x", "d")])
    view = await here.until_final(run_id)

    assert (view.state, view.reason) == ("failed", "mount_failed")
    assert view.message == (
        f"runs/1 cannot be mounted at /spell/repo/{at}/x: /spell/repo/{at} is a {what} of the code"
    )


async def test_a_run_that_is_not_kept_apart_has_no_link_to_what_is_kept(rooms):
    """By every name that it was given it may write: what the next run gets is as it was."""
    here = await rooms("none")
    manifest = await stow(here, {"d/a": b"kept", "d/e/b": b"kept too"}, {"d/l": "a"}, mode=0o666)
    mounts = [
        mount(here, manifest, "/spell/d", "d"),
        mount(here, manifest, "/spell/f", "d/a", is_file=True),
    ]
    hurt = (
        "for f in $(find ../spell -type f -o -type l); do chmod 666 $f; stat -L -c %h $f; echo hurt >> $f; "
        "truncate -s 1 $f; done; rm -rf d/e; cat d/a f"
    )

    first = await here.create(hurt, mounts=mounts)
    await here.until_final(first)
    second = await here.create("cat d/a d/e/b d/l f", mounts=mounts)
    await here.until_final(second)

    assert await here.output(first) == b"1\n" * 4 + b"kk"
    assert await here.output(second) == b"kept" + b"kept too" + b"kept" * 2
