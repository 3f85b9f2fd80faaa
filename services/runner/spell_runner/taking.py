"""Has storage take large new files from where they are, each by one pass over its bytes (shell)."""

import asyncio
from collections.abc import Mapping

from pydantic import TypeAdapter

from spell_proto import blob_packs, logs
from spell_proto.errors import FullError, RefusedError, UnavailableError
from spell_proto.http import Caller
from spell_proto.shapes import Shape
from spell_runner import reading, sending
from spell_runner.outputs import Found
from spell_runner.reading import Blob, Course, LeftOutError
from spell_runner.workspace import Abort

log = logs.get()

#: Files that storage copies for us at the same time: some are flushed while it reads others.
TAKEN_AT_ONCE = 4


class New(Shape):
    new: tuple[bool, ...]


_NEW: TypeAdapter[New] = TypeAdapter(New)


async def new(storage: Caller, owner_id: int, placed: Mapping[str, Found]) -> dict[str, Found]:
    """Large files that storage may find where they are, and is certain not to have: none of their owner has their size and
    looks like them.
    """
    large = {
        path: found
        for path, found in placed.items()
        if found.link is None and found.size >= blob_packs.LOOKED_AT_BYTES_MIN
    }
    if not large or not storage.near:
        return {}
    looks = await asyncio.to_thread(lambda: {path: reading.look(found) for path, found in large.items()})
    asked = {path: look for path, look in looks.items() if look is not None}
    body = {"files": list(asked.values())}
    answer = await storage.call("POST", "/blobs/new", _NEW, params={"owner_id": owner_id}, body=body)
    return {path: placed[path] for path, is_new in zip(asked, answer.new, strict=True) if is_new}


async def taken(
    storage: Caller, owner_id: int, files: Mapping[str, Found], course: Course, abort: Abort
) -> dict[str, Blob | None]:
    """What storage took from where it is, and None for what it cannot find there. What cannot be read is in neither."""
    done: dict[str, Blob | None] = {}
    limit = asyncio.Semaphore(TAKEN_AT_ONCE)

    async def one(path: str) -> None:
        async with limit:
            abort.check()
            try:
                blob = await sending.put_new(storage, owner_id, files[path])
            except RefusedError as error:
                if isinstance(error, UnavailableError | FullError):
                    raise
                log.info("a file changed while it was saved", problem=repr(error))
                blob = await sending.put_copy(storage, owner_id, files[path], abort)
        done[path] = blob
        if blob is not None:
            course.read += blob.size
            course.sent(blob.size)

    async def each(path: str) -> None:
        try:
            await one(path)
        except LeftOutError as error:
            course.left_out.append(reading.line(files[path], error))

    async with asyncio.TaskGroup() as group:
        # What takes longest goes first: at the end nothing waits for it.
        for path in sorted(files, key=lambda path: -files[path].size):
            group.create_task(each(path))
    return done
