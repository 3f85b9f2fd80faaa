"""Small files of a resource that come in one go: a request for each would cost more than its bytes (shell)."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import aiohttp

from spell_proto import blob_packs, logs
from spell_proto.errors import RefusedError, UnavailableError
from spell_runner.mounts.content import Item
from spell_runner.mounts.sources import Source
from spell_runner.tasks import in_thread

log = logs.get()

#: What has not come of a pack by then is asked for again.
PACK_SECONDS_MAX = 60.0
#: What says that somebody is away for a while.
AWAY = (UnavailableError, aiohttp.ClientError, TimeoutError, ConnectionError)

Keep = Callable[[Item, bytes], None]


def packed(
    source: Source, items: Iterable[Item], is_aside: Callable[[Item], bool]
) -> tuple[list[list[Item]], list[Item]]:
    """Which of some files come together, and which by themselves: also what is `is_aside`, and need not come."""
    small, alone = list[Item](), list[Item]()
    for item in items:
        fits = item.sha256 is not None and source.goes_together(item) and not is_aside(item)
        (small if fits else alone).append(item)
    return blob_packs.portions((item, item.size) for item in small), alone


async def fetch(
    pack: list[Item],
    fetch_some: Callable[[list[Item]], Awaitable[list[Item]]],
    fetch_one: Callable[[Item], Awaitable[None]],
) -> None:
    """Fetch a pack in as many goes as it takes; `fetch_some` gives what came in one. What does not come is fetched by itself:
    so it is waited for, or turns out to be nowhere.
    """
    left = pack
    while left:
        came = {item.name for item in (await fetch_some(left) if len(left) > 1 else [])}
        left = [item for item in left if item.name not in came]
        if left:
            await fetch_one(left.pop(0))


async def take(
    source: Source, items: Sequence[Item], keep: Keep, came: list[Item], on_bytes: Callable[[int], None]
) -> None:
    """Have a source send files, of which `keep` takes each that is what it should be; `came` are those. That it breaks off, or
    refuses, is no error: what is missing then is asked for otherwise.
    """
    by_digest: dict[str, list[Item]] = {}
    for item in items:
        assert item.sha256 is not None, "it is known of what comes together"
        by_digest.setdefault(item.sha256, []).append(item)
    arriving = blob_packs.Arriving(by_digest)

    def kept(data: bytes) -> int:
        count = 0
        for digest, content in arriving.feed(data):
            for item in by_digest[digest]:
                if len(content) == item.size:
                    keep(item, content)
                    came.append(item)
                    count += item.size
        return count

    try:
        async with asyncio.timeout(PACK_SECONDS_MAX), source.together(list(by_digest)) as pieces:
            async for data in pieces:
                on_bytes(await in_thread(partial(kept, data)))
    except (*AWAY, RefusedError) as error:
        log.info("files did not all come together", files=len(items), came=len(came), problem=repr(error))
