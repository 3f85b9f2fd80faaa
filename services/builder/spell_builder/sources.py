"""Where a requirements file may have packages come from: hosts that the operator lists, and no others (shell)."""

from spell_builder import hosts, pins
from spell_builder.repositories import Repositories
from spell_proto.errors import InvalidError, shown
from spell_proto.requirements import Entry, Index, Parsed
from spell_proto.spec import EnvironmentRequest


class Sources:
    """The hosts of indexes, and those of repositories, which storage knows."""

    def __init__(self, index_hosts: str, repositories: Repositories) -> None:
        self._hosts = hosts.read(index_hosts)
        self._repositories = repositories

    async def check(self, request: EnvironmentRequest) -> None:
        """Refuse a request that names another host.

        Raises:
            InvalidError: which line of it.
            UnavailableError: nobody knows which hosts are allowed.
        """
        file = request.conda_file()
        for parsed, flag in (
            *((each, "--pip-req") for each in request.parsed()),
            *(((file.pip, "--conda-file"),) if file is not None else ()),
        ):
            for index in parsed.indexes:
                self._check_index(index, flag)
            await self._check_repositories(parsed, flag)

    def _check_index(self, index: Index, flag: str) -> None:
        if index.host.removesuffix(":443") not in self._hosts:
            allowed = ", ".join(sorted(self._hosts)) or "none"
            raise InvalidError(
                "pip_index_not_allowed",
                f"{flag}: {pins.where(index.origin)}: {index.option}: the host {shown(index.host)} is not on the "
                f"operator's list (SPELL_INDEX_HOSTS); allowed: {allowed}",
                field="environment.requirements",
                hint="Without the line, packages come from the index that the operator has set.",
            )

    async def _check_repositories(self, parsed: Parsed, flag: str) -> None:
        if parsed.repositories:
            allowed = await self._repositories.hosts()
            for entry in parsed.repositories:
                _check_host(entry, allowed, flag)


def _check_host(entry: Entry, allowed: tuple[str, ...], flag: str) -> None:
    assert entry.git is not None
    if entry.git.host not in allowed:
        raise InvalidError(
            "pip_url_not_allowed",
            f"{flag}: {pins.where(entry.origin)}: the host {shown(entry.git.host)} is not on the operator's list "
            f"(SPELL_GIT_HOSTS); allowed: {', '.join(allowed) or 'none'}",
            field="environment.requirements",
        )
