"""What a runner holds in memory does not grow with the files that it saves and fetches."""

import pytest

from integration.runner.stowing import mount
from support.memory import peak_bytes

pytestmark = pytest.mark.asyncio(loop_scope="session")
GROWTH_BYTES_MAX = 64 << 20
SMALL = 2 << 20
LARGE = 500 << 20


async def passed_on(here, size):
    """A run that makes a file of a size, and one that finds it again; the peak after that."""
    made = await here.until_final(await here.create(f"head -c {size} /dev/urandom > file"), seconds=120)
    assert made.saved_bytes == size
    seen = await here.create(
        "stat -c %s here", mounts=[mount(here, made.manifest, "/spell/here", "file", is_file=True)]
    )
    await here.until_final(seen, seconds=120)
    assert await here.output(seen) == b"%d\n" % size
    return peak_bytes(here.runner.process.pid)


async def test_memory_stays_as_it_is_however_large_a_file_is(rooms):
    here = await rooms("none")
    before = await passed_on(here, SMALL)

    assert await passed_on(here, LARGE) - before <= GROWTH_BYTES_MAX
