"""What Amazon gives us for a while: logins of its registries, kept in memory until they end, and what a role may do (shell)."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from spell_proto import logs
from spell_proto.registries import RegistryLogin

log = logs.get()

#: Whoever asks us for a login waits for half a minute.
SECONDS_MAX = 20.0
ANSWER_BYTES_MAX = 64 << 10
#: So long before its end a login is got anew, and so long before its end it is not used any more.
RENEW_SECONDS = 3600.0
SPARE_SECONDS = 300.0


class AmazonError(Exception):
    """No login can be had. The message is for users. `passing`: it may get better soon, as rights that were given take effect."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """Who asks, where: an access key, or a role that the server's own identity may assume or is."""

    region: str
    role: str = ""
    access_key: str = ""
    secret_key: str = ""

    def __repr__(self) -> str:
        return f"Identity({self.region!r}, {self.role or self.access_key!r}, …)"


@dataclass(frozen=True, slots=True)
class Issued:
    """A login, and the time at which it ends."""

    login: RegistryLogin
    expires_at: float


Issue = Callable[[Identity], Coroutine[None, None, Issued]]


class Amazon:
    """Logins in memory, each got once however many ask. `issue` gets one; `clock` is the time of day."""

    def __init__(self, issue: Issue, clock: Callable[[], float] = time.time) -> None:
        self._issue = issue
        self._clock = clock
        self._issued: dict[Identity, Issued] = {}
        self._flights: dict[Identity, asyncio.Future[Issued]] = {}

    async def login(self, identity: Identity) -> RegistryLogin:
        """A login that is good for minutes at least, or as new as can be.

        Raises:
            AmazonError: none can be had.
        """
        known = self._issued.get(identity)
        left = known.expires_at - self._clock() if known is not None else 0.0
        if known is not None and left > RENEW_SECONDS:
            return known.login
        try:
            return (await self._shared(identity)).login
        except AmazonError as error:
            if known is None or left < SPARE_SECONDS:
                raise
            log.warning(
                "a registry login cannot be renewed yet", problem=str(error), seconds_left=round(left)
            )
            return known.login

    async def _shared(self, identity: Identity) -> Issued:
        """What one question gets, for all who ask meanwhile: nobody waits for the failures of others one after another."""
        flight = self._flights.get(identity)
        if flight is None:
            flight = self._flights[identity] = asyncio.ensure_future(self._issue(identity))
            flight.add_done_callback(lambda done: self._landed(identity, done))
        return await asyncio.shield(flight)

    def _landed(self, identity: Identity, flight: asyncio.Future[Issued]) -> None:
        del self._flights[identity]
        if not flight.cancelled() and flight.exception() is None:
            self._issued[identity] = flight.result()

    async def renew(self, identity: Identity) -> RegistryLogin:
        """A new login: what may be got with this identity may have changed. Until it is there, the known one stays.

        Raises:
            AmazonError: none can be had.
        """
        issued = self._issued[identity] = await self._issue(identity)
        return issued.login

    def forget(self) -> None:
        """Have every login got anew: who it was got as may be gone."""
        self._issued.clear()


@dataclass(frozen=True, slots=True, repr=False)
class Lent:
    """What requests are signed with, and the time at which it ends."""

    access_key: str
    secret_key: str
    token: str | None
    expires_at: float

    def __repr__(self) -> str:
        return "Lent(…)"


async def issue(identity: Identity) -> Issued:
    """Have a process of its own ask Amazon for a login of its registries.

    Raises:
        AmazonError: it got none.
    """
    told = await _asked("registry", identity)
    login = RegistryLogin(username=told["username"], password=told["password"])
    return Issued(login, float(told["expires_at"]))


async def lend(role: str) -> Lent:
    """Have a process of its own become a role.

    Raises:
        AmazonError: it may not.
    """
    told = await _asked("role", Identity("us-east-1", role=role))
    return Lent(told["access_key"], told["secret_key"], told["token"], float(told["expires_at"]))


async def _asked(what: str, identity: Identity) -> dict[str, Any]:
    asked = {
        "what": what,
        "region": identity.region,
        "role": identity.role,
        "access_key": identity.access_key,
        "secret_key": identity.secret_key,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "spell_storage.amazon_token",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(os.environ),
    )  # fmt: skip
    try:
        async with asyncio.timeout(SECONDS_MAX):
            said, _ = await process.communicate(orjson.dumps(asked))
    except TimeoutError:
        raise AmazonError("Amazon does not answer") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    try:
        told: dict[str, Any] = orjson.loads(said[:ANSWER_BYTES_MAX])
    except ValueError:
        raise AmazonError("the program that asks Amazon broke off") from None
    if "problem" in told:
        problem = str(told["problem"])
        problem = problem.replace(identity.secret_key, "…") if identity.secret_key else problem
        raise AmazonError(problem, passing=bool(told.get("passing")))
    return told


def environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Ours, with the certificates that everything else here trusts, and nothing that is told to other hosts."""
    found = {name: value for name, value in environ.items() if not name.startswith("SPELL_")}
    found.pop("AWS_CA_BUNDLE", None)
    if environ.get("SSL_CERT_FILE"):
        found["AWS_CA_BUNDLE"] = environ["SSL_CERT_FILE"]
    return found
