"""Where the code of a run is: a commit that was pushed, or a URL to fetch from."""

import time

from spell_gateway.bounded import Bounded
from spell_gateway.storage import Storage
from spell_proto import checks
from spell_proto.errors import ConflictError, InvalidError, shown
from spell_proto.spec import CodeLocation, CodeRef, GithubSource
from spell_proto.views import Commit

COMMITS_KNOWN_MAX = 10_000
#: A commit stays what it is, but its repository may get another name, and one that no run names goes in the end.
COMMITS_BELIEVED_SECONDS = 30.0
HOSTS_BELIEVED_SECONDS = 30.0


class Code:
    """Turns what a request says about code into what a machine needs."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._commits: Bounded[tuple[int, str], tuple[float, Commit]] = Bounded(COMMITS_KNOWN_MAX)
        self._hosts: tuple[str, ...] = ()
        self._hosts_at = float("-inf")

    async def locate(self, owner_id: int, code: CodeRef) -> CodeLocation:
        """Where storage keeps a commit, and the snapshot on top of it if there is one.

        Raises:
            ConflictError: one of them is not here.
            InvalidError: the snapshot is of another repository.
        """
        if code.snapshot is None:
            laid = known = await self._commit(owner_id, code.commit)
        else:
            # The snapshot first: the commit came with it, and is looked for in its history.
            laid = await self._commit(owner_id, code.snapshot, "code.snapshot")
            known = await self._commit(owner_id, code.commit)
        if laid.repository_id != known.repository_id:
            raise InvalidError(
                "snapshot_invalid",
                f"code.snapshot: {shown(code.snapshot)} is not a commit on top of code.commit",
                field="code.snapshot",
            )
        return CodeLocation(
            repository_id=known.repository_id,
            repository=known.repository,
            commit=known.commit,
            snapshot=code.snapshot,
            tree=laid.tree,
            root_directory=code.root_directory,
            cwd=code.cwd,
        )

    async def _commit(self, owner_id: int, name: str, field: str = "code.commit") -> Commit:
        asked_at = time.monotonic()
        kept_at, known = self._commits.get((owner_id, name)) or (0.0, None)
        if known is None or asked_at - kept_at > COMMITS_BELIEVED_SECONDS:
            known = await self._storage.commit(owner_id, name)
            if known is None:
                raise ConflictError(
                    "commit_unknown",
                    f"{field}: the commit {shown(name)} is not known to the server",
                    field=field,
                    hint="push it to the remote_url of PUT /api/repositories, then ask again",
                )
            self._commits.put((owner_id, name), (asked_at, known))
        return known

    async def check(self, source: GithubSource) -> None:
        """Raise InvalidError for a host that the server does not fetch from. What is private, loopback or hidden
        behind another spelling gets the same answer as any other host.
        """
        host = checks.github_host(source.url)
        asked_at = time.monotonic()
        if host not in self._hosts or asked_at - self._hosts_at > HOSTS_BELIEVED_SECONDS:
            self._hosts = (await self._storage.git_hosts()).hosts
            self._hosts_at = asked_at
        if host not in self._hosts:
            allowed = ", ".join(self._hosts) or "no host"
            raise InvalidError(
                "url_not_public",
                f"--github-url: {shown(source.url)}: code is not fetched from there; allowed: {allowed}",
                field="github.url",
            )
