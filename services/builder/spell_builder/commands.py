"""Programs that builds start: bound to us, in a session of their own, their lines passed on as they come (shell)."""

import asyncio
import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from spell_builder.lines import Lines

#: Takes a line and whether it is about a failure.
Say = Callable[[str, bool], None]

ENDED_SECONDS_MAX = 5.0
_ENDED_LOOK_SECONDS = 0.01
_OUTPUT_BYTES_KEPT = 256 * 1024
_READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Done:
    """How a program ended: its exit code, all it wrote to stdout, and the last of what it wrote to stderr."""

    code: int
    out: str
    errors: str


async def run(
    words: Sequence[str],
    seconds: float,
    say: Say,
    *,
    environment: Mapping[str, str],
    stdin: str = "",
    keep: int | None = None,
) -> Done:
    """Run a program to its end. `keep` is a descriptor that it holds open while it lives.

    Raises:
        TimeoutError: it took longer than `seconds`.
    """
    process = await asyncio.create_subprocess_exec(
        *_bound_to_us(),
        *words,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environment),
        # uv looks for settings in its directory and above; ours are all in the environment.
        cwd="/",
        # Its own session, so that the compilers it starts can be ended with it.
        start_new_session=True,
        pass_fds=() if keep is None else (keep,),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(seconds), asyncio.TaskGroup() as tasks:
            out = tasks.create_task(process.stdout.read())
            errors = tasks.create_task(_passed_on(process.stderr, say))
            with contextlib.suppress(ConnectionError):
                process.stdin.write(stdin.encode())
                await process.stdin.drain()
            process.stdin.close()
        code = await process.wait()
    finally:
        await _ended(process)
    return Done(code, out.result().decode(errors="replace"), errors.result())


async def _ended(process: asyncio.subprocess.Process) -> None:
    """End what is left of a command and of all that it started, so that nothing writes any more."""
    deadline = time.monotonic() + ENDED_SECONDS_MAX
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        # Its children are not ours to wait for; the group is there until the last of them has been.
        while time.monotonic() < deadline:
            os.killpg(process.pid, signal.SIGKILL)
            await asyncio.sleep(_ENDED_LOOK_SECONDS)


async def _passed_on(stream: asyncio.StreamReader, say: Say) -> str:
    """Pass lines on as they come, and return the last of what was read."""
    kept = bytearray()
    lines = Lines(say)
    while data := await stream.read(_READ_BYTES):
        kept = (kept + data)[-_OUTPUT_BYTES_KEPT:]
        lines.feed(data)
    lines.end()
    return kept.decode(errors="replace")


def unsaid(_text: str, _failing: bool) -> None:
    """Say nothing."""


def _bound_to_us() -> tuple[str, ...]:
    """Words in front of a command that let the kernel end it with us, where setpriv is there."""
    setpriv = shutil.which("setpriv")
    return (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()
