"""Whether this spot machine is about to be taken away: asks where its cloud says so, over and over (shell).

A notice stands as long as the source says so. While a source cannot be asked, what it said last counts: a machine that
is being taken away loses its network sooner or later. Nothing is kept: whoever starts anew asks anew.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import aiohttp

from spell_proto import logs
from spell_proto.errors import SettingsError, shown

log = logs.get()

POLL_SECONDS = 1.0
#: Where nobody answers: what is asked holds up no others, and a name that is not known is not looked up all the time.
AWAY_SECONDS = 3.0
ASK_SECONDS_MAX = 2.0
BODY_BYTES_MAX = 4096
AWS = "http://169.254.169.254"
AWS_TOKENS = "/latest/api/token"
AWS_NOTICE = "/latest/meta-data/spot/instance-action"
#: `metadata.google.internal`, whatever becomes of name servers in the end.
GCP = "http://169.254.169.254"
GCP_NOTICE = "/computeMetadata/v1/instance/preempted"
_TTL = {"X-aws-ec2-metadata-token-ttl-seconds": "21600"}
_V2_HEADER = "X-aws-ec2-metadata-token"
_FLAVOR = {"Metadata-Flavor": "Google"}
_UNAUTHORIZED = 401


Kind = Literal["aws", "gcp", "url", "file"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where notice is given: below the address of a cloud's metadata service, at a URL, or by a file that is there."""

    kind: Kind
    place: str


def source(notice: str, endpoint: str, *, spot: bool) -> Source | None:
    """What `SPELL_SPOT_NOTICE` and `SPELL_SPOT_ENDPOINT` say; None where nothing gives notice. Pure.

    Raises:
        SettingsError: they make no sense.
    """
    cloud = notice in {"aws", "gcp"}
    if notice and not spot:
        raise SettingsError("the setting SPELL_SPOT_NOTICE is for spot machines: it needs SPELL_SPOT=1")
    if endpoint and not cloud:
        raise SettingsError("the setting SPELL_SPOT_ENDPOINT goes with SPELL_SPOT_NOTICE=aws or gcp")
    if endpoint and (not _is_url(endpoint) or urlsplit(endpoint).path not in {"", "/"}):
        raise SettingsError(
            "the setting SPELL_SPOT_ENDPOINT must be the address of a metadata service, as in "
            f"http://[fd00:ec2::254], not {shown(_bare(endpoint), 60)}"
        )
    if not notice:
        return None
    if notice == "aws":
        return Source("aws", endpoint.rstrip("/") or AWS)
    if notice == "gcp":
        return Source("gcp", endpoint.rstrip("/") or GCP)
    if notice.startswith("/") and "\0" not in notice:
        return Source("file", notice)
    if not _is_url(notice):
        raise SettingsError(
            "the setting SPELL_SPOT_NOTICE must be aws, gcp, an http or https URL without a login, or the absolute path "
            f"of a file, not {shown(_bare(notice), 60)}"
        )
    return Source("url", notice)


def _is_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return whole and "@" not in parts.netloc and text.isprintable() and " " not in text


def _bare(text: str) -> str:
    """A value without what may be a password in it."""
    return f"…@{text.rsplit('@', 1)[1]}" if "@" in text else text


def stands(kind: Kind, status: int, body: bytes) -> bool:
    """What an answer says. Pure.

    Raises:
        ValueError: it says nothing about that.
    """
    if kind != "gcp" and status == 404:
        return False
    if status != 200:
        raise ValueError(f"it answers {status}")
    match kind:
        case "aws":
            # Other things answer at this address on machines of other clouds.
            said = json.loads(body)
            if not isinstance(said, dict) or "action" not in said:
                raise ValueError("it names no action")
            return True
        case "gcp":
            word = body.strip().upper()
            if word not in {b"TRUE", b"FALSE"}:
                raise ValueError("it says neither TRUE nor FALSE")
            return word == b"TRUE"
        case "url" | "file":
            return True


class Watch:
    """Asks one source. `tell` hears whether a notice stands, each time that this changes."""

    def __init__(self, where: Source, tell: Callable[[bool], None]) -> None:
        self.stands = False
        self._where = where
        self._tell = tell
        self._token: str | None = None
        self._problem: str | None = None

    async def run(self) -> None:
        """Never returns."""
        while True:
            await asyncio.sleep(POLL_SECONDS if self._problem is None else AWAY_SECONDS)
            await self.look()

    async def look(self) -> bool:
        """Ask once, for a bounded time; whether a notice stands."""
        try:
            if self._where.kind == "file":
                # Without a limit: a thread that hangs on a file system that is away must not be joined by others.
                now = await asyncio.to_thread(_exists, self._where.place)
            else:
                async with asyncio.timeout(ASK_SECONDS_MAX):
                    now = await self._ask()
        except (OSError, aiohttp.ClientError, ValueError) as error:
            # A TimeoutError is an OSError, and has no text.
            problem = str(error) or "no answer"
            if self._problem is None:
                log.warning("nothing can be learned about notices", source=self._where.place, problem=problem)
            self._problem = problem
            return self.stands
        if self._problem is not None:
            log.info("notices can be learned about again", source=self._where.place)
            self._problem = None
        if now != self.stands:
            self.stands = now
            log.warning("this machine is about to be taken away" if now else "this machine stays after all")
            self._tell(now)
        return now

    async def _ask(self) -> bool:
        place = self._where.place
        # Not through the proxies of the environment: a metadata service is beside the machine.
        async with aiohttp.ClientSession(trust_env=False) as session:
            match self._where.kind:
                case "aws":
                    return stands("aws", *await self._amazon(session, place))
                case "gcp":
                    return stands("gcp", *await _get(session, place + GCP_NOTICE, _FLAVOR))
                case _:
                    return stands("url", *await _get(session, place, {}))

    async def _amazon(self, session: aiohttp.ClientSession, base: str) -> tuple[int, bytes]:
        """With a token (IMDSv2), which is kept while it is good; without one where none is given (v1)."""
        if self._token is not None:
            answer = await _get(session, base + AWS_NOTICE, {_V2_HEADER: self._token})
            if answer[0] != _UNAUTHORIZED:
                return answer
        self._token = None
        async with session.put(base + AWS_TOKENS, headers=_TTL, allow_redirects=False) as response:
            body = await response.content.read(BODY_BYTES_MAX)
            if response.status >= 500:
                raise ValueError(f"it answers {response.status}")
            if response.status == 200:
                self._token = body.decode("ascii").strip()
        headers = {} if self._token is None else {_V2_HEADER: self._token}
        return await _get(session, base + AWS_NOTICE, headers)


def _exists(path: str) -> bool:
    try:
        Path(path).stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


async def _get(session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> tuple[int, bytes]:
    async with session.get(url, headers=headers, allow_redirects=False) as response:
        return response.status, await response.content.read(BODY_BYTES_MAX)
