"""What is said of a command without a container that was killed because memory had run out."""

import os
import tempfile
from pathlib import Path

import pytest

from spell_runner.shim import memory

pytestmark = pytest.mark.asyncio(loop_scope="session")
ROOTS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
)


@pytest.fixture(name="group")
def _group():
    """A control group of 64 MiB, which a process joins by writing its id to a file."""
    for root, limit in ROOTS:
        if not os.access(root, os.W_OK) or os.geteuid():
            continue
        group = Path(tempfile.mkdtemp(dir=root, prefix="spell-tests-"))
        if (group / limit).exists():
            (group / limit).write_text(str(64 << 20))
            yield group / "cgroup.procs"
            group.rmdir()
            return
        group.rmdir()
    pytest.skip("control groups of memory cannot be made here")


@pytest.mark.parametrize("isolation", ["none", "unshare"])
async def test_a_command_that_was_killed_for_memory_is_told_so_with_what_it_had_used(rooms, isolation, group):
    here = await rooms(isolation)
    run_id = await here.create(f"echo 0 > {group}; exec python3 -c 'x = bytearray(300 << 20)'")
    view = await here.until_final(run_id)

    assert (view.state, view.exit_code) == ("complete", 137)
    said = [line for line in await here.lines(run_id) if "run out of memory" in line]
    assert len(said) == 1
    assert said[0].startswith("It was killed while this machine, or what it ran in, had run out of memory")
    assert 20 <= int(said[0].split("had used ")[1].split(" MiB")[0]) <= 70


async def test_a_command_that_kills_itself_is_not_taken_for_that(rooms):
    here = await rooms("none")
    for _ in range(5):
        before = memory.kills()
        run_id = await here.create("kill -KILL $$")
        view = await here.until_final(run_id)
        # The kernel counts for the whole machine, on which others may run out of memory just now.
        if memory.kills() == before:
            break

    assert view.exit_code == 137
    assert not any("memory" in line for line in await here.lines(run_id))
