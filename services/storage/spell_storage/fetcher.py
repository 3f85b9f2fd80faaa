"""Code from other hosts: one fetch at a time per source, followed by everybody who asks for it."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

from spell_proto import checks, logs
from spell_proto.errors import NotFoundError, UnavailableError, shown
from spell_proto.spec import GithubSource
from spell_proto.views import Commit
from spell_storage import git
from spell_storage.code import Code
from spell_storage.credentials import Credentials, not_allowed
from spell_storage.remote import ALL_REFS, Remote
from spell_storage.remote_refs import FetchError, RemoteRefs, is_full, is_part
from spell_storage.sealed import Login, UnreadableError

log = logs.get()

FETCHES_AT_ONCE = 4
#: How long a fetch waits for its turn, and for another one into the same repository.
TURN_SECONDS_MAX = 1800.0
#: A host that does not answer is asked again after so long.
AGAIN_SECONDS = (1.0, 4.0)
#: Branches may move between a look at them and their fetch.
_LOOKS_MAX = 3
_LINES_MAX = 1_000

Report = Callable[[str], None]


class Flight:
    """One fetch that is under way: its lines so far, and how it ended."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._outcome: Commit | Exception | None = None
        self._changed = asyncio.Event()

    def report(self, line: str) -> None:
        if len(self._lines) < _LINES_MAX:
            self._lines.append(line)
            self._tell()

    def land(self, outcome: Commit | Exception) -> None:
        self._outcome = outcome
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def updates(self, beat_seconds: float) -> AsyncGenerator[str | Commit | None]:
        """Every line, None when there was none for a while, and last the commit.

        Raises:
            FetchError: it cannot be fetched.
            Exception: whatever else went wrong.
        """
        position = 0
        while True:
            changed = self._changed
            for line in self._lines[position:]:
                yield line
                position += 1
            if position < len(self._lines):
                continue
            if isinstance(self._outcome, Exception):
                raise self._outcome
            if self._outcome is not None:
                yield self._outcome
                return
            try:
                async with asyncio.timeout(beat_seconds):
                    await changed.wait()
            except TimeoutError:
                yield None


class Fetcher:
    """Fetches for owners. `run` must be running."""

    def __init__(
        self, code: Code, repositories: git.Repositories, credentials: Credentials, remote: Remote
    ) -> None:
        self._code = code
        self._git = repositories
        self._credentials = credentials
        self._remote = remote
        self._turns = asyncio.Semaphore(FETCHES_AT_ONCE)
        self._flights: dict[tuple[int, str, str | None], Flight] = {}
        self._tasks: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Carry out fetches until this is cancelled; those in hand end then, and can begin again any time."""
        async with asyncio.TaskGroup() as self._tasks:
            await asyncio.Event().wait()

    def follow(self, owner_id: int, source: GithubSource) -> Flight:
        """The fetch of a source, begun when there is none."""
        assert self._tasks is not None
        key = (owner_id, source.url, source.ref)
        if key not in self._flights:
            flight = self._flights[key] = Flight()
            self._tasks.create_task(self._fly(key, flight))
        return self._flights[key]

    async def _fly(self, key: tuple[int, str, str | None], flight: Flight) -> None:
        owner_id, url, ref = key
        try:
            commit = await self._fetch(owner_id, url, ref, flight.report)
        except asyncio.CancelledError:
            flight.land(ConnectionError("the service is stopping"))
            raise
        except Exception as error:  # noqa: BLE001 -- whoever follows gets it
            if isinstance(error, FetchError):
                log.info("code cannot be fetched", owner_id=owner_id, source=url, ref=ref, code=error.code)
            flight.land(error)
        else:
            log.info("code fetched", owner_id=owner_id, source=url, ref=ref, commit=commit.commit)
            flight.land(commit)
        finally:
            del self._flights[key]

    async def _fetch(self, owner_id: int, url: str, ref: str | None, report: Report) -> Commit:
        host = checks.github_host(url)
        if host not in self._credentials.hosts:
            raise FetchError("host_not_allowed", not_allowed(host, self._credentials.hosts).message)
        known = await self._cached(owner_id, url, ref)
        if known is not None:
            return known
        try:
            login = await self._credentials.login(host)
        except UnreadableError:
            raise FetchError(
                "fetch_failed",
                f"{url}: the credentials of its host cannot be read; they must be stored again",
            ) from None
        async with asyncio.timeout(TURN_SECONDS_MAX):
            await self._turns.acquire()
        try:
            for pause in (*AGAIN_SECONDS, None):
                try:
                    return await self._fetch_now(owner_id, url, ref, login, report)
                except FetchError as error:
                    if not error.passing or pause is None:
                        raise
                    report(f"{error.message}; trying again")
                    await asyncio.sleep(pause)
        finally:
            self._turns.release()
        raise AssertionError("the last try returns or raises")

    async def _cached(self, owner_id: int, url: str, ref: str | None) -> Commit | None:
        """What a full hash stands for cannot have changed."""
        repository_id = await self._code.fetched_repository(owner_id, url) if is_full(ref) else None
        if ref is None or repository_id is None:
            return None
        try:
            return await self._code.commit(owner_id, ref, repository_id)
        except NotFoundError:
            return None

    async def _fetch_now(
        self, owner_id: int, url: str, ref: str | None, login: Login | None, report: Report
    ) -> Commit:
        for _ in range(_LOOKS_MAX):
            refs = await self._remote.refs(url, login)
            wanted = _wanted(url, ref, refs)
            repository_id = await self._code.put_fetched_repository(owner_id, url, sha256=refs.sha256)
            path = self._git.path(owner_id, repository_id)
            async with (
                self._git.locks.working(repository_id, seconds=TURN_SECONDS_MAX) as working,
                self._git.locks.using(repository_id) as using,
            ):
                held = (working, using)
                if not await self._has(path, wanted, refs):
                    report(f"Fetching {url}")
                    await self._bring(path, url, login, wanted if is_full(ref) else None, report, held)
                commit = wanted or await self._complete(path, url, ref or "")
                if await self._git.trees(path, [commit]):
                    await self._code.pushed(owner_id, repository_id, [commit])
                    return await self._code.commit(owner_id, commit, repository_id)
        raise FetchError("ref_not_found", f"{url}: {shown(ref or commit)} is no commit")

    async def _has(self, path: Path, wanted: str | None, refs: RemoteRefs) -> bool:
        """Whether nothing has to be fetched: the commit is here, or all that its hash could be the beginning of."""
        if wanted is None:
            return all(git.has_object(path, commit) for commit in refs.commits.values())
        return git.has_object(path, wanted) and await self._git.is_whole(path, wanted)

    async def _bring(
        self,
        path: Path,
        url: str,
        login: Login | None,
        lone: str | None,
        report: Report,
        held: tuple[int, ...],
    ) -> None:
        """Fetch all branches and tags, and then the commit `lone` if it is on none of them."""
        try:
            await self._remote.fetch(url, login, path, ALL_REFS, report, held)
            if lone is not None and not git.has_object(path, lone):
                refspec = f"+{lone}:{git.KEPT}/br_{lone}"
                await self._remote.fetch(url, login, path, (refspec,), report, held)
            # Thousands of refs as files would slow down every look at them.
            await self._git.run(path, "pack-refs", "--all", held=held)
        except (FetchError, UnavailableError, asyncio.CancelledError) as error:
            # What was received until then: nobody else writes here.
            await asyncio.to_thread(git.clear_temporary, path)
            if not isinstance(error, FetchError) or lone is None:
                raise
            if error.code == "fetch_failed" and not error.passing:
                raise FetchError("ref_not_found", f"{url}: there is no commit {lone}") from error
            raise

    async def _complete(self, path: Path, url: str, part: str) -> str:
        """The one commit whose hash begins like this."""
        printed = await self._git.run(path, "rev-parse", f"--disambiguate={part}")
        names = printed.decode().split()
        found = list(await self._git.trees(path, names)) if names else []
        if len(found) > 1:
            raise FetchError("ref_ambiguous", f"{url}: {len(found)} commits begin with {part}")
        if not found:
            raise FetchError("ref_not_found", f"{url}: there is no branch, tag or commit {shown(part)}")
        return found[0]


def _wanted(url: str, ref: str | None, refs: RemoteRefs) -> str | None:
    """The commit that is wanted, or None when only the beginning of its hash is known.

    Raises:
        FetchError: nothing can be meant.
    """
    if not refs.commits:
        raise FetchError("ref_not_found", f"{url}: the repository has no commits")
    named = refs.find(ref)
    if named is not None:
        return named
    if ref is None:
        raise FetchError("ref_not_found", f"{url}: it has no branch master and no default branch")
    if is_full(ref):
        return ref
    if not is_part(ref):
        raise FetchError("ref_not_found", f"{url}: there is no branch, tag or commit {shown(ref)}")
    return None
