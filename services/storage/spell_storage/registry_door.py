"""Tries a login at a registry, as a Docker daemon would, before it is stored (shell).

Whoever may store a login may have this machine ask any host: what is not public is asked only where an operator has
listed it, nothing is followed to another host, and everything has a bound.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from dataclasses import dataclass
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from spell_proto import images, logs
from spell_proto.errors import InvalidError, shown
from spell_storage.sealed import Login

log = logs.get()

SECONDS_MAX = 10.0
ANSWER_BYTES_MAX = 256 << 10
CHALLENGE_CHARS_MAX = 4_096
#: Where the registry that everybody means by docker.io answers.
_ADDRESS_OF = {images.DEFAULT_REGISTRY: "registry-1.docker.io"}
_SCHEME = re.compile(r"\s*(?P<scheme>basic|bearer)\b(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_MEMBER = re.compile(r'(?P<name>[a-z]+)="(?P<value>[^"\\]*)"', re.IGNORECASE)
#: IPv6 addresses that stand for an IPv4 address, which is at their end.
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")


class _NotPublicError(Exception):
    """An address that is asked only where an operator has listed its host."""


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry answers to nobody: a login is taken by itself (`realm` is empty), or by whoever hands out tokens."""

    realm: str = ""
    service: str = ""


def challenge(headers: list[str]) -> Challenge | None:
    """The first challenge that we understand."""
    for header in headers:
        found = _SCHEME.fullmatch(header[:CHALLENGE_CHARS_MAX])
        if found is None:
            continue
        if found["scheme"].lower() == "basic":
            return Challenge()
        members = {one["name"].lower(): one["value"] for one in _MEMBER.finditer(found["rest"])}
        if members.get("realm"):
            return Challenge(members["realm"], members.get("service", ""))
    return None


def is_public(address: str) -> bool:
    """Whether everybody can reach this IP address, as far as its number says."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            found = found.ipv4_mapped
        elif found.sixtofour is not None:
            found = found.sixtofour
        elif found in _TRANSLATED:
            found = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return found.is_global and not found.is_multicast


def is_loopback(host: str) -> bool:
    """Whether Docker speaks plain HTTP to a host where it does not speak HTTPS."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Door:
    """`listed` is what the operator lets images come from."""

    def __init__(self, listed: str) -> None:
        self._listed = listed

    async def knock(self, registry: str, login: Login) -> None:
        """See that a registry takes a login; one that asks nobody for any takes all.

        Raises:
            InvalidError: it does not, or it does not answer as a registry does.
        """
        visit = _Visit(registry, login, trusted=images.listed(registry, self._listed))
        try:
            async with asyncio.timeout(SECONDS_MAX):
                await visit.make()
        except InvalidError:
            # It is a ValueError, too.
            raise
        except _NotPublicError:
            raise _refused(
                "registry_not_public",
                registry,
                "this is no public host; an operator can list it in SPELL_DOCKER_REGISTRIES",
            ) from None
        except TimeoutError:
            raise _refused(
                "registry_unreachable",
                registry,
                f"it does not answer within {SECONDS_MAX:.0f} s; nothing was stored",
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            log.info("a registry does not answer", registry=registry, problem=type(error).__name__)
            raise _refused(
                "registry_unreachable",
                registry,
                f"it cannot be reached ({_reason(error)}); nothing was stored",
            ) from None


class _Visit:
    def __init__(self, registry: str, login: Login, *, trusted: bool) -> None:
        self._registry = registry
        self._trusted = trusted
        self._basic = aiohttp.encode_basic_auth(login.username, login.password)
        self._login = login
        self._plain = is_loopback(registry.rpartition(":")[0] or registry)
        self._session: aiohttp.ClientSession

    async def make(self) -> None:
        # What this machine trusts is read now: the library's own reading of it is older than our settings.
        context = await asyncio.to_thread(ssl.create_default_context)
        connector = aiohttp.TCPConnector(resolver=_Resolver(trusted=self._trusted), limit=1, ssl=context)
        async with aiohttp.ClientSession(
            connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as self._session:
            base, status, headers = await self._open_door()
            if status == 200:
                return
            asked = challenge(headers) if status == 401 else None
            if asked is None:
                raise self._odd(status)
            taken = self._basic
            if asked.realm:
                taken = f"Bearer {await self._token(asked)}"
            status, _, _ = await self._ask(base, {"Authorization": taken})
            self._judge(status)

    async def _open_door(self) -> tuple[URL, int, list[str]]:
        host = _ADDRESS_OF.get(self._registry, self._registry)
        for scheme in ("https", "http") if self._plain else ("https",):
            base = URL(f"{scheme}://{host}/v2/")
            try:
                status, headers, _ = await self._ask(base, {})
            except aiohttp.ClientError:
                if scheme == "https" and self._plain:
                    continue
                raise
            return base, status, headers
        raise AssertionError("the last one answers or raises")

    async def _token(self, asked: Challenge) -> str:
        realm = URL(asked.realm)
        if realm.scheme != "https" and not (realm.scheme == "http" and self._plain):
            raise _refused(
                "registry_odd",
                self._registry,
                "it sends logins to where they would be read by others on the way",
            )
        query = {"account": self._login.username} | ({"service": asked.service} if asked.service else {})
        status, _, body = await self._ask(realm.update_query(query), {"Authorization": self._basic})
        self._judge(status)
        try:
            answer = orjson.loads(body)
            token = answer.get("token") or answer["access_token"]
        except (ValueError, KeyError, TypeError, AttributeError):
            token = None
        if not isinstance(token, str) or not (token.isascii() and token.isprintable()):
            raise self._odd(status)
        return token

    def _judge(self, status: int) -> None:
        if status in {400, 401, 403}:
            raise InvalidError(
                "registry_login_refused",
                f"registry: {self._registry} does not take this user name and password; nothing was stored",
                field="password",
            )
        if status != 200:
            raise self._odd(status)

    def _odd(self, status: int) -> InvalidError:
        moved = " and sends us elsewhere, which is not followed" if 300 <= status < 400 else ""
        return _refused(
            "registry_odd", self._registry, f"it does not answer as a registry does: HTTP {status}{moved}"
        )

    async def _ask(self, url: URL, headers: dict[str, str]) -> tuple[int, list[str], bytes]:
        """Status, challenges, and the beginning of the body."""
        proxy = proxy_for(url)
        if (
            not self._trusted
            and proxy is None
            and _is_number(url.host or "")
            and not is_public(url.host or "")
        ):
            raise _NotPublicError
        async with self._session.get(url, headers=headers, allow_redirects=False, proxy=proxy) as answer:
            body = b""
            while len(body) < ANSWER_BYTES_MAX and (data := await answer.content.read(ANSWER_BYTES_MAX)):
                body += data
            return answer.status, answer.headers.getall("WWW-Authenticate", []), body


class _Resolver(AbstractResolver):
    """Looks names up, and refuses what is not public before anything is sent: the address that is looked at is the one that
    is spoken to.
    """

    def __init__(self, *, trusted: bool) -> None:
        self._trusted = trusted
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        # A proxy is the operator's choice, and what is behind it is the proxy's to judge.
        if not (self._trusted or _is_proxy(host)) and not all(is_public(one["host"]) for one in found):
            raise _NotPublicError
        return found

    async def close(self) -> None:
        await self._resolver.close()


def proxy_for(url: URL) -> URL | None:
    """The proxy that this machine reaches a host through."""
    found = getproxies().get(url.scheme)
    if not found or proxy_bypass(f"{url.host}:{url.port}"):
        return None
    return URL(found)


def _is_proxy(host: str) -> bool:
    return any(URL(one).host == host for one in getproxies().values())


def _is_number(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _reason(error: Exception) -> str:
    """Why a connection could not be made, without the library's own way of writing it."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "there is no host of this name"
    if isinstance(error, (aiohttp.ClientConnectorCertificateError, aiohttp.ClientSSLError)):
        return "it shows no certificate that this server trusts"
    if isinstance(error, aiohttp.ClientConnectorError):
        return "nobody answers there"
    if isinstance(error, (aiohttp.InvalidURL, ValueError)):
        return "this is no address"
    return "the connection broke"


def _refused(code: str, registry: str, why: str) -> InvalidError:
    return InvalidError(code, f"registry: {shown(registry)}: {why}", field="registry")
