"""What registries of images are told when a machine pulls from them: tried, stored encrypted, given to services alone."""

import re

import asyncpg

from spell_proto import database, images
from spell_proto.errors import InvalidError, NotFoundError, RefusedError, SettingsError, shown
from spell_proto.registries import RegistryKind, RegistryLogin, RegistryView
from spell_storage.amazon import Amazon, AmazonError, Identity
from spell_storage.registry_door import Door
from spell_storage.sealed import Login, Seal, UnreadableError

_SQL = database.queries("spell_storage", "registries.sql")
USERNAME_CHARS_MAX = 255
#: The key of a service account of Google's has 2.4 kB.
PASSWORD_CHARS_MAX = 16_384
_ACCESS_KEY = re.compile(r"[A-Z0-9]{12,128}", re.ASCII)
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,512}", re.ASCII)
#: User names whose passwords end within hours: what is stored here is for months.
_FLEETING = {
    "oauth2accesstoken": "an access token ends within the hour; store the key of a service account: "
    "--username _json_key --password-stdin < key.json",
    "AWS": "a login of Amazon's ends within 12 hours; store an access key, whose id is the user name and whose secret is "
    "the password, or add the registry without either for the role of the cluster",
}


def read_role(setting: str) -> str:
    """The IAM role of the setting SPELL_AWS_ROLE, or nothing.

    Raises:
        SettingsError: it is no role.
    """
    if setting and not _ROLE.fullmatch(setting):
        raise SettingsError(
            "the setting SPELL_AWS_ROLE must be the ARN of an IAM role, as in "
            f"arn:aws:iam::123456789012:role/spell, not {shown(setting)}"
        )
    return setting


class Registries:
    """The table `registries`. `role` is the IAM role of the cluster, if it has one."""

    def __init__(self, pool: asyncpg.Pool, seal: Seal, door: Door, amazon: Amazon, role: str) -> None:
        self._pool = pool
        self._seal = seal
        self._door = door
        self._amazon = amazon
        self.role = role

    async def put(self, registry: str, username: str | None, password: str | None) -> RegistryView:
        """Store what a registry is told, instead of what was stored before, if it takes it. A registry of Amazon's may
        come without a login: then it is the role of the cluster that gets them.

        Raises:
            InvalidError: it does not, or this is no registry, or no user name or password.
        """
        registry = images.registry_name(registry)
        if images.ecr(registry) is None:
            kind, login = RegistryKind.LOGIN, _checked(username or "", password or "")
            await self._door.knock(registry, login)
        elif username is None and password is None:
            kind, login = RegistryKind.AWS_ROLE, Login(self._role(), "")
        else:
            kind, login = RegistryKind.AWS_KEY, _checked(username or "", password or "", _ACCESS_KEY)
        if kind is not RegistryKind.LOGIN:
            try:
                await self._amazon.renew(_identity(registry, kind, login))
            except AmazonError as error:
                refused = error.passing or kind is RegistryKind.AWS_KEY
                raise InvalidError(
                    "registry_login_refused" if refused else "registry_login_failed",
                    f"registry: {registry}: {error}; nothing was stored",
                    field="password",
                ) from None
        sealed = await self._seal.close(_place(registry), login)
        row = await self._pool.fetchrow(_SQL["put"], registry, kind, login.username, sealed)
        assert row is not None
        return _view(row)

    def _role(self) -> str:
        if not self.role:
            raise InvalidError(
                "registry_role_missing",
                "registry: this cluster has no IAM role, which an operator names in SPELL_AWS_ROLE; without one, give an "
                "access key: --username ACCESS_KEY_ID, and its secret as the password",
                field="registry",
            )
        return self.role

    async def all(self) -> tuple[RegistryView, ...]:
        return tuple(_view(row) for row in await self._pool.fetch(_SQL["all"]))

    async def remove(self, registry: str) -> None:
        """Forget what a registry is told.

        Raises:
            NotFoundError: nothing is stored for it.
        """
        if await self._pool.fetchrow(_SQL["remove"], images.registry_name(registry)) is None:
            raise _nothing(registry)
        self._amazon.forget()

    async def see(self, registry: str) -> None:
        """See whether something is stored for a registry.

        Raises:
            NotFoundError: nothing is.
        """
        if await self._pool.fetchrow(_SQL["secret_of"], images.registry_name(registry)) is None:
            raise _nothing(registry)

    async def login(self, registry: str) -> RegistryLogin:
        """What a registry is told.

        Raises:
            NotFoundError: nothing is stored for it.
            RefusedError: it cannot be decrypted, or Amazon gives none.
        """
        registry = images.registry_name(registry)
        row = await self._pool.fetchrow(_SQL["secret_of"], registry)
        if row is None:
            raise _nothing(registry)
        try:
            login = await self._seal.open(_place(registry), row["username"], row["secret"])
        except UnreadableError:
            raise RefusedError(
                "registry_login_unreadable",
                f"the login of {registry} cannot be read; an administrator must store it again",
            ) from None
        kind = RegistryKind(row["kind"])
        if kind is RegistryKind.LOGIN:
            return RegistryLogin(username=login.username, password=login.password)
        try:
            return await self._amazon.login(_identity(registry, kind, login))
        except AmazonError as error:
            raise RefusedError(
                "registry_login_failed", f"no login for {registry} can be had: {error}"
            ) from None


def _identity(registry: str, kind: RegistryKind, login: Login) -> Identity:
    where = images.ecr(registry)
    assert where is not None
    if kind is RegistryKind.AWS_ROLE:
        return Identity(where.region, role=login.username)
    return Identity(where.region, access_key=login.username, secret_key=login.password)


def _checked(username: str, password: str, users: re.Pattern[str] | None = None) -> Login:
    """Neither is echoed: one may be in the place of the other. `users`: what user names are like here."""
    if not _plain(username, USERNAME_CHARS_MAX) or ":" in username:
        raise InvalidError(
            "secret_invalid",
            f"username: 1 to {USERNAME_CHARS_MAX} printable ASCII characters without a colon are allowed",
            field="username",
        )
    if not _plain(password, PASSWORD_CHARS_MAX):
        raise InvalidError(
            "secret_invalid",
            f"password: 1 to {PASSWORD_CHARS_MAX} printable ASCII characters are allowed",
            field="password",
        )
    if username in _FLEETING:
        raise InvalidError("registry_login_fleeting", f"username: {_FLEETING[username]}", field="username")
    if users is not None and not users.fullmatch(username):
        raise InvalidError(
            "secret_invalid",
            "username: Amazon's registries know access keys: its id as the user name, its secret as the password",
            field="username",
        )
    return Login(username, password)


def _plain(text: str, most: int) -> bool:
    return 1 <= len(text) <= most and text.isascii() and text.isprintable()


def _place(registry: str) -> str:
    """What a password is bound to. No git host has a blank in it."""
    return f"registry {registry}"


def _view(row: asyncpg.Record) -> RegistryView:
    return RegistryView(**dict(row) | {"kind": RegistryKind(row["kind"])})


def _nothing(registry: str) -> NotFoundError:
    return NotFoundError("registry_not_found", f"no login is stored for the registry {shown(registry)}")
