"""Whether a service answers: the smallest HTTP client there is, so that the supervisor stays small."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Any

PROBE_SECONDS_MAX = 2.0
BETWEEN_SECONDS = 0.05
_ANSWER_BYTES_MAX = 1 << 20

#: Whether something becomes true within so many seconds.
Until = Callable[[float], Awaitable[bool]]


async def get(address: str, path: str) -> Any:
    """The JSON answer to a GET, or None when there is none: no listener, no 200, no JSON, no answer in time."""
    try:
        async with asyncio.timeout(PROBE_SECONDS_MAX):
            if address.startswith("unix://"):
                reader, writer = await asyncio.open_unix_connection(
                    address.removeprefix("unix://"), limit=_ANSWER_BYTES_MAX
                )
            else:
                host, _, port = address.removeprefix("http://").rpartition(":")
                reader, writer = await asyncio.open_connection(host, int(port), limit=_ANSWER_BYTES_MAX)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: local\r\nConnection: close\r\n\r\n".encode())
                head = await reader.readuntil(b"\r\n\r\n")
                if head.split(maxsplit=2)[1] != b"200":
                    return None
                return json.loads(await reader.read(_ANSWER_BYTES_MAX))
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError, IndexError, EOFError, asyncio.LimitOverrunError):
        return None


async def until(address: str, path: str, good: Callable[[Any], bool], seconds: float) -> bool:
    """Whether the answer to a GET becomes `good` within `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = await get(address, path)
        if answer is not None and good(answer):
            return True
        await asyncio.sleep(BETWEEN_SECONDS)
    return False


def healthy(answer: Any) -> bool:
    """Whether a `Health` says that all is well."""
    return isinstance(answer, dict) and answer.get("ok") is True


def has_machine(answer: Any) -> bool:
    """Whether a `MachineTypeList` names a machine that answers."""
    types = answer.get("machine_types", ()) if isinstance(answer, dict) else ()
    return any(kind.get("machines", 0) > 0 for kind in types)
