"""A check of all stored files, with the names by which people ask for them."""

from collections.abc import AsyncGenerator

from pydantic import TypeAdapter

from spell_gateway.outlet import chunks
from spell_gateway.scheduler import Scheduler
from spell_gateway.shapes import User
from spell_gateway.storage import Storage
from spell_proto import resources
from spell_proto.git import PLATFORM
from spell_proto.scrubbing import DamagedFile, ScrubLine

LINE = TypeAdapter(ScrubLine)


class StoreCheck:
    """Asks storage, and the scheduler for the runs that manifests are of."""

    def __init__(self, scheduler: Scheduler, storage: Storage) -> None:
        self._scheduler = scheduler
        self._storage = storage

    async def lines(self, user: User) -> AsyncGenerator[ScrubLine, None]:
        """What storage finds, as it goes on.

        Raises:
            ConflictError: a check goes on already.
        """
        #: Files are told manifest by manifest: the runs of one are asked for once.
        known: dict[tuple[int, str], tuple[str, ...]] = {}
        async with self._storage.scrub() as answer:
            left = b""
            async for chunk in chunks(answer):
                *whole, left = (left + chunk).split(b"\n")
                for line in whole:
                    yield await self._named(user, LINE.validate_json(line), known)

    async def _named(
        self, user: User, line: ScrubLine, known: dict[tuple[int, str], tuple[str, ...]]
    ) -> ScrubLine:
        found: list[DamagedFile] = []
        for file in line.found:
            if file.name is not None or file.owner_id is None or file.manifest is None:
                found.append(_of_whom(file, user))
                continue
            which = (file.owner_id, file.manifest)
            if which not in known:
                known.clear()
                known[which] = await self._scheduler.runs_with(*which)
            runs = known[which]
            names = ["/".join(filter(None, (resources.RUNS, run, file.path))) for run in runs]
            found += [file.model_copy(update={"name": name}) for name in names]
            # Nothing names it: it is on its way, or about to be removed.
            found += [] if names else [file]
        return line.model_copy(update={"found": tuple(found)})


def _of_whom(file: DamagedFile, user: User) -> DamagedFile:
    """Two people may have an upload of the same name."""
    if file.name is None or file.owner_id in {user.id, PLATFORM}:
        return file
    return file.model_copy(update={"name": f"{file.name} (of user {file.owner_id})"})
