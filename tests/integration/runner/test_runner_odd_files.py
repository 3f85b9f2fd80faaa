"""One file that cannot be saved costs the others nothing, and what is said about it names no path of the machine."""

import re

import pytest

pytestmark = pytest.mark.asyncio(loop_scope="session")
#: Makes directories in each other by descriptor, as no path leads to the last of them.
DEEP = """
import os
open("../precious", "w").write("precious")
at = os.open("..", os.O_RDONLY)
for _ in range(17):
    os.mkdir("d" * 250, dir_fd=at)
    at = os.open("d" * 250, os.O_RDONLY, dir_fd=at)
os.close(os.open("lost", os.O_WRONLY | os.O_CREAT, dir_fd=at))
"""
LEFT_OUT = re.compile(r"Not saved: '/spell/repo/d+…d+' \(its path has more than 4,000 bytes\)")


@pytest.mark.parametrize("isolation", ["none", "unshare"])
async def test_a_path_that_is_too_long_costs_nothing_but_itself(rooms, isolation):
    here = await rooms(isolation)
    given = here.front.shelf.code({"sub/deep.py": DEEP.encode()}, cwd="sub")

    run_id = await here.create("python deep.py", code=given)
    view = await here.until_final(run_id)

    lines = await here.lines(run_id)
    assert (view.exit_code, view.reason) == (0, None), lines
    assert await here.files(view) == {"precious": b"precious"}
    assert [line for line in lines if LEFT_OUT.fullmatch(line)] == [view.save_notes[0]]
    assert not [line for line in lines if str(here.directory) in line]
    await here.until_gone(run_id)
