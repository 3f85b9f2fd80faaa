"""Whether a daemon answers is known soon, whatever it does instead of answering."""

import asyncio
import time

from spell_runner.engines import pulse
from support import stack


async def test_a_daemon_answers_is_away_or_says_something_else():
    with stack.short_directory() as directory:
        path = f"{directory}/d.sock"
        said = b"HTTP/1.0 200 OK\r\n\r\nOK"

        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            writer.close()

        assert not await pulse.Pulse(path).beats()
        async with await asyncio.start_unix_server(answer, path):
            assert await pulse.Pulse(path).beats()
            said = b"HTTP/1.0 500 Internal Server Error\r\n\r\n"
            assert not await pulse.Pulse(path).beats()
            said = b""
            assert not await pulse.Pulse(path).beats()


async def test_a_daemon_that_says_nothing_is_waited_for_only_shortly():
    with stack.short_directory() as directory:
        path, over = f"{directory}/d.sock", asyncio.Event()

        async def say_nothing(_, writer):
            await over.wait()
            writer.close()

        async with await asyncio.start_unix_server(say_nothing, path):
            asked = pulse.Pulse(path)
            started = time.monotonic()
            assert not await asked.beats()
            first = time.monotonic() - started
            assert not await asked.beats(), "and what was heard a moment ago is believed"
            assert time.monotonic() - started - first < 0.5
            over.set()

        assert pulse.ANSWER_SECONDS_MAX <= first < 2 * pulse.ANSWER_SECONDS_MAX
