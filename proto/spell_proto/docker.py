"""Two ways to speak to a Docker daemon: one for short questions, with limits, and one for what may take hours (shell)."""

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiodocker
import aiohttp
from aiodocker.exceptions import DockerError

CONTROL = aiohttp.ClientTimeout(total=30, sock_connect=5)
STREAMS = aiohttp.ClientTimeout(total=None, sock_connect=5)
CONTROLS_AT_ONCE = 16
#: What is raised where a daemon is away, breaks off, or refuses.
GONE = (DockerError, aiohttp.ClientError, TimeoutError, OSError)
#: So the library numbers what is no answer: nobody was there, or broke off.
NOBODY = 900

#: Labels. Those of an image are inherited by containers made of it, so whoever looks for containers by a label sets it on
#: each of his own to a value that no image has.
MANAGED = "com.spellrun.managed"


@dataclass(frozen=True, slots=True)
class Clients:
    """`control` has short limits and few connections, `streams` neither: whoever uses it watches over it."""

    control: aiodocker.Docker
    streams: aiodocker.Docker


@asynccontextmanager
async def clients(socket: str) -> AsyncIterator[Clients]:
    """Clients of the daemon at a socket. It need not be there yet, and may come and go."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for timeout, limit in ((CONTROL, CONTROLS_AT_ONCE), (STREAMS, 0)):
            connector = aiohttp.UnixConnector(socket, limit=limit)
            session = await stack.enter_async_context(
                aiohttp.ClientSession(connector=connector, timeout=timeout)
            )
            # With a connector of ours, the library takes the address for the name of a host.
            client = aiodocker.Docker(
                "unix://localhost", connector=connector, session=session, timeout=timeout
            )
            made.append(await stack.enter_async_context(client))
        yield Clients(*made)


def refused(error: BaseException) -> str | None:
    """The daemon's own words where it refused; None where asking again may help."""
    if isinstance(error, DockerError) and 400 <= error.status < 500:
        return str(error.message)
    return None
