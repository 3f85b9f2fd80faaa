"""Which hosts code is fetched from, and what each is told when it asks who fetches: stored encrypted, never shown."""

import asyncpg

from spell_proto import checks, database
from spell_proto.errors import InvalidError, NotFoundError, SettingsError, shown
from spell_proto.views import GitCredentialsView
from spell_storage.sealed import Login, Seal

_SQL = database.queries("spell_storage", "credentials.sql")
TEXT_CHARS_MAX = 4_096


def read_hosts(setting: str) -> tuple[str, ...]:
    """The hosts of the setting SPELL_GIT_HOSTS.

    Raises:
        SettingsError: one of them is no host.
    """
    hosts = []
    for host in filter(None, (part.strip() for part in setting.split(","))):
        # What stands before an @ may be a secret.
        found = "a value with an @" if "@" in host else shown(host)
        try:
            if "/" in host:
                raise InvalidError("host_invalid", host)  # noqa: TRY301 -- one refusal for all
            hosts.append(checks.github_host(checks.github_url(f"https://{host}/x")))
        except InvalidError:
            raise SettingsError(
                f"the setting SPELL_GIT_HOSTS must name hosts, separated by commas, not {found}"
            ) from None
    return tuple(dict.fromkeys(hosts))


class Credentials:
    """The table `git_credentials`."""

    def __init__(self, pool: asyncpg.Pool, hosts: tuple[str, ...], seal: Seal) -> None:
        self._pool = pool
        self._seal = seal
        self.hosts = hosts

    async def put(self, host: str, username: str, password: str) -> GitCredentialsView:
        """Store what a host is told, instead of what was stored before.

        Raises:
            InvalidError: nothing is fetched from this host, or git could not pass this on.
        """
        host = self._allowed(host)
        for field, value in (("username", username), ("password", password)):
            if not 1 <= len(value) <= TEXT_CHARS_MAX or not value.isprintable():
                # The value is not echoed: it may be the password.
                raise InvalidError(
                    "credentials_invalid",
                    f"{field}: 1 to {TEXT_CHARS_MAX} printable characters are allowed",
                    field=field,
                )
        sealed = await self._seal.close(host, Login(username, password))
        row = await self._pool.fetchrow(_SQL["put"], host, username, sealed)
        assert row is not None
        return GitCredentialsView(**dict(row))

    async def all(self) -> tuple[GitCredentialsView, ...]:
        return tuple(GitCredentialsView(**dict(row)) for row in await self._pool.fetch(_SQL["all"]))

    async def remove(self, host: str) -> None:
        """Forget what a host is told.

        Raises:
            NotFoundError: nothing is stored for it.
        """
        if await self._pool.fetchrow(_SQL["remove"], host.lower().removesuffix(":443")) is None:
            raise NotFoundError("credentials_not_found", f"no credentials are stored for {shown(host)}")

    async def login(self, host: str) -> Login | None:
        """What a host is told, if anything.

        Raises:
            UnreadableError: it cannot be decrypted.
        """
        row = await self._pool.fetchrow(_SQL["secret_of"], host)
        if row is None:
            return None
        return await self._seal.open(host, row["username"], row["secret"])

    def _allowed(self, host: str) -> str:
        host = host.lower().removesuffix(":443")
        if host not in self.hosts:
            raise not_allowed(host, self.hosts)
        return host


def not_allowed(host: str, hosts: tuple[str, ...]) -> InvalidError:
    """The refusal of a host that is not on the list."""
    return InvalidError(
        "host_not_allowed",
        f"{shown(host)}: code is not fetched from this host; allowed: {', '.join(hosts) or 'none'}",
        field="host",
    )
