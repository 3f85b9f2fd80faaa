"""What a client may not have forwarded: connections, displays, agents."""

import asyncio
import subprocess
from pathlib import Path

import pytest

from integration.storage.children import Children
from integration.storage.git_people import a_repository
from spell_proto import http
from support import stack
from support.git_https import ENVIRONMENT

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(
    "options",
    [
        ["-W", "127.0.0.1:22"],
        ["-N", "-R", "0:127.0.0.1:22"],
        ["-N", "-R", "0"],
        ["-N", "-R", "/tmp/spell-forwarded:127.0.0.1:22"],
        ["-N", "-w", "any"],
    ],
    ids=["local", "remote", "remote dynamic", "remote to a socket", "tunnel"],
)
async def test_forwarding_is_refused(person, options):
    done = person.ssh(options=[*options, "-o", "ExitOnForwardFailure=yes"])

    assert done.returncode != 0
    assert not Path("/tmp/spell-forwarded").exists()


@pytest.mark.parametrize("how", ["local", "dynamic", "to a socket"])
async def test_what_the_client_forwards_by_itself_reaches_nothing(storage, person, how):
    """The client listens here; the server refuses to connect there."""
    reached = asyncio.Event()

    async def answer(_reader, writer):
        reached.set()
        writer.close()

    port = stack.free_port()
    target = await asyncio.start_server(answer, "127.0.0.1", 0)
    aim = target.sockets[0].getsockname()[1]
    forward = {
        "local": ["-L", f"{port}:127.0.0.1:{aim}"],
        "dynamic": ["-D", str(port)],
        "to a socket": ["-L", f"{port}:{storage.directory}/storage.sock"],
    }[how]
    client = await asyncio.create_subprocess_exec(
        *("ssh", *person.ssh_options[:-1], "LogLevel=INFO", "-N", *forward),
        *("-p", str(person.port), "git@127.0.0.1"),
        env=ENVIRONMENT,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(15):
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except OSError:
                    await asyncio.sleep(0.02)
            if how == "dynamic":
                writer.write(b"\5\1\0")
                assert await reader.readexactly(2) == b"\5\0"
                writer.write(b"\5\1\0\1\x7f\0\0\1" + aim.to_bytes(2, "big"))
            else:
                writer.write(b"GET /health HTTP/1.0\r\n\r\n")
            # The client says that it was refused; its end of the connection may stay open for a while.
            assert client.stderr is not None
            while b"open failed" not in await client.stderr.readline():
                assert client.returncode is None
            writer.close()
    finally:
        client.terminate()
        await client.wait()
        target.close()

    assert not reached.is_set()


async def test_a_display_is_not_forwarded(storage, person):
    children = Children(storage)

    done = subprocess.run(
        [
            "ssh",
            *person.ssh_options,
            "-o",
            "LogLevel=INFO",
            "-Y",
            "-p",
            str(person.port),
            "git@127.0.0.1",
            "id",
        ],
        env={**ENVIRONMENT, "DISPLAY": "127.0.0.1:99"},
        capture_output=True,
        timeout=20,
        check=False,
    )

    assert b"X11 forwarding request failed" in done.stderr
    assert done.returncode == 128
    assert not children.any()


async def test_an_agent_is_never_asked_from_here(api, storage, person):
    """The client offers its agent without waiting for an answer: what counts is that nobody uses it."""
    person.commit(a=b"1")
    repository = await a_repository(api, person)
    command = f"git-receive-pack '/{person.owner_id}/{repository.id}.git'"

    with stack.short_directory() as directory:
        agent = subprocess.Popen(["ssh-agent", "-D", "-a", directory / "agent"], stdout=subprocess.DEVNULL)
        try:
            assert await http.until_listening(directory / "agent", 10)
            done = subprocess.run(
                [
                    *("ssh", "-v", "-A", *person.ssh_options[:-1], "LogLevel=DEBUG1"),
                    *("-p", str(person.port), "git@127.0.0.1", command),
                ],
                env={**ENVIRONMENT, "SSH_AUTH_SOCK": str(directory / "agent")},
                input=b"0000",
                capture_output=True,
                timeout=20,
                check=False,
            )
        finally:
            agent.terminate()
            agent.wait(10)

    assert b"Requesting authentication agent forwarding" in done.stderr
    assert done.returncode == 0
    # No channel was opened from the other side, for the agent or anything else.
    assert b"client_input_channel_open" not in done.stderr
