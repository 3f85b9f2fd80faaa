"""What tests rely on to say that nothing was started does notice what is started."""

import asyncio
import os
import subprocess
import sys

import pytest
import uvloop

from support.spawned import announced, children, own_children


@pytest.mark.parametrize(
    "start",
    [
        lambda: subprocess.run(["true", "marker"], check=True),
        lambda: os.waitpid(os.posix_spawnp("true", ["true", "marker"], os.environ), 0),
        lambda: os.system("true marker"),
        lambda: asyncio.run(_spawned()),
    ],
    ids=["subprocess", "posix_spawn", "system", "asyncio"],
)
def test_a_program_that_is_started_is_announced_and_counted(start):
    before = own_children()
    with announced() as found:
        start()

    assert any("marker" in line for line in found)
    assert own_children() != before


def test_nothing_is_announced_or_counted_where_nothing_is_started():
    before = own_children()
    with announced() as found:
        assert sys.version

    assert found == []
    assert own_children() == before


def test_what_an_extension_starts_is_counted():
    before = own_children()
    with announced() as found:
        uvloop.run(_spawned())

    assert own_children() != before
    assert found == []  # the reason why the kernel is asked for services


def test_children_of_another_process_are_counted_while_they_live_and_after():
    lines = "import subprocess\ninput()\nchild = subprocess.Popen(['cat'], stdin=subprocess.PIPE)\nprint(1, flush=True)\ninput()\nchild.communicate()\nprint(2, flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", lines], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:

        def go_on():
            other.stdin.write("\n")
            other.stdin.flush()

        before = children(other.pid)
        go_on()
        assert other.stdout.readline() == "1\n"
        living = children(other.pid)
        go_on()
        assert other.stdout.readline() == "2\n"
        after = children(other.pid)
        go_on()

    assert len(living[1]) == 1
    assert after[1] == frozenset()
    assert after[0] > before[0]


async def _spawned():
    process = await asyncio.create_subprocess_exec("true", "marker")
    await process.wait()
