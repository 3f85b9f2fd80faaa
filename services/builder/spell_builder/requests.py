"""What requests became the last time: the builder's rows in Postgres, and a small memory in front (shell)."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import asyncpg

from spell_builder.flight import GivenUpError
from spell_builder.keys import Interpreter
from spell_builder.resolver import Recipe
from spell_proto import database, logs

log = logs.get()
T = TypeVar("T")

SQL = database.queries("spell_builder", "requests.sql")
#: How long a build waits for a database that is being started again.
DATABASE_SECONDS_MAX = 60.0
_AGAIN_SECONDS = 0.2
_REMEMBERED_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Resolution:
    """Exact versions for a request, the environment they make, and how long they are recent enough to reuse.

    `framework` is the fingerprint of the one that was asked for.
    """

    key: str
    resolved: str
    fresh_seconds: float
    interpreter: Interpreter | None  # none: noted before there was a choice
    framework: str | None = None

    @property
    def fresh(self) -> bool:
        return self.fresh_seconds > 0


class Requests:
    """Request digest -> resolution."""

    def __init__(self, pool: asyncpg.Pool, fresh_seconds: float) -> None:
        self._pool = pool
        self._fresh_seconds = fresh_seconds
        #: digest -> (key, until when it is fresh by the monotonic clock)
        self._recent: OrderedDict[str, tuple[str, float]] = OrderedDict()

    def remembered(self, digest: str) -> str | None:
        """The key of a fresh resolution that this process has seen; no question to Postgres."""
        key, until = self._recent.get(digest, ("", 0.0))
        return key if time.monotonic() < until else None

    async def find(self, digest: str) -> Resolution | None:
        """The last resolution of a request, fresh or not."""
        row = await self._pool.fetchrow(SQL["find"], digest)
        return None if row is None else _resolution(row, self._fresh_seconds)

    def keep(self, digest: str, found: Resolution) -> None:
        """Remember a resolution that is fresh and can be used."""
        self._keep(digest, found.key, found.fresh_seconds)

    async def by_key(self, key: str) -> Resolution | None:
        """What an environment is made from."""
        row = await self._pool.fetchrow(SQL["by_key"], key)
        return None if row is None else _resolution(row, self._fresh_seconds)

    async def remember(self, digest: str, recipe: Recipe, framework: str | None = None) -> None:
        """Note a resolution of right now."""
        about = asdict(recipe.interpreter)
        await self._pool.execute(SQL["remember"], digest, recipe.key, recipe.resolved, about, framework)
        self._keep(digest, recipe.key, self._fresh_seconds)

    async def built(self, recipe: Recipe, digest: str, seconds: float) -> int:
        """Note what an environment consists of. Gives how many other contents its key has had."""
        about = asdict(recipe.interpreter)
        return len(await self._pool.fetch(SQL["built"], recipe.key, digest, seconds, recipe.resolved, about))

    async def image(self, key: str) -> tuple[str | None, list[str]]:
        """The id of the image that an environment is, and the digests of all contents that its key has had."""
        row = await self._pool.fetchrow(SQL["image"], key)
        return (None, []) if row is None else (row["image"], row["contents"])

    async def imaged(self, key: str, image: str, below: str | None, content: str) -> None:
        """Note the image that an environment is, and the key of the layer that it was made on."""
        await self._pool.execute(SQL["imaged"], key, image, below, content)

    async def use(self, run_id: int, key: str, digest: str, *, reused: bool) -> None:
        """Note that a run uses an environment."""
        await self._pool.execute(SQL["use"], run_id, key, digest, reused)

    async def uses(self, run_ids: Sequence[int]) -> list[asyncpg.Record]:
        """What runs have used."""
        return await self._pool.fetch(SQL["uses"], list(run_ids))

    async def active_uses(self, key: str) -> bool:
        """Whether a run that is not over uses an environment."""
        return bool(await self._pool.fetchval(SQL["active_uses"], key))

    async def not_over(self, most: int) -> list[int]:
        """Runs that had not ended the last time somebody asked."""
        return [row["run_id"] for row in await self._pool.fetch(SQL["not_over"], most)]

    async def over(self, run_ids: Sequence[int]) -> None:
        """Note that runs have ended."""
        await self._pool.execute(SQL["over"], list(run_ids))

    async def inventory(self) -> list[asyncpg.Record]:
        """Every environment that was ever resolved, with who uses it."""
        return await self._pool.fetch(SQL["inventory"])

    async def size(self, key: str, size: int) -> None:
        """Note how much room an environment takes."""
        await self._pool.execute(SQL["size"], key, size)

    async def contents(self, key: str | None) -> dict[str, list[str]]:
        """Key -> digests of the contents it has had, the first one first; of one key, or of all."""
        return {row["key"]: row["digests"] for row in await self._pool.fetch(SQL["contents"], key)}

    async def recorded(self, key: str) -> list[str]:
        """The digests of the contents that a key has had."""
        return (await self.contents(key)).get(key, [])

    def _keep(self, digest: str, key: str, seconds: float) -> None:
        self._recent[digest] = (key, time.monotonic() + seconds)
        self._recent.move_to_end(digest)
        if len(self._recent) > _REMEMBERED_MAX:
            self._recent.popitem(last=False)


def _resolution(row: asyncpg.Record, fresh_seconds: float) -> Resolution:
    about = row["interpreter"]
    interpreter = None if about is None else Interpreter(**about)
    left = fresh_seconds - row["age_seconds"]
    return Resolution(row["key"], row["resolved"], left, interpreter, row["framework"])


async def patiently(question: Callable[[], Awaitable[T]]) -> T:
    """Ask until Postgres answers. Every question of the builder may be asked twice.

    Raises:
        GivenUpError: it did not answer for `DATABASE_SECONDS_MAX`.
    """
    deadline = time.monotonic() + DATABASE_SECONDS_MAX
    while True:
        try:
            return await question()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            if time.monotonic() > deadline:
                raise GivenUpError(f"the database does not answer: {error!r}") from error
            log.info("waiting for postgres", problem=repr(error))
            await asyncio.sleep(_AGAIN_SECONDS)
