"""An index that a requirements file names, over https, beside the one that is set for all."""

import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from support.authority import loopback
from support.packages import Index

pytestmark = pytest.mark.integration


class Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(name="other")
def _other(tmp_path: Path) -> Index:
    return Index(tmp_path / "other")


@pytest.fixture(name="host")
async def _host(builder, other, tmp_path) -> Iterator[str]:
    """`127.0.0.1:PORT` of a server of the other index, which the operator lists."""
    ca, context = loopback(tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=other.directory)) as server:
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        host = f"127.0.0.1:{server.server_address[1]}"
        builder.environment |= {"SPELL_INDEX_HOSTS": host, "SSL_CERT_FILE": str(ca)}
        await builder.end()
        await builder.start()
        try:
            yield host
        finally:
            server.shutdown()
            thread.join()


def versions(path: str) -> str:
    program = "import alpha, beta; print(alpha.VERSION, alpha.TEXT, beta.VERSION)"
    return subprocess.check_output([f"{path}/bin/python", "-c", program], text=True).strip()


async def test_another_index_adds_to_the_one_of_the_operator(builder, index, other, host):
    index.add("beta", "1.0", requires=("alpha",))
    index.add("alpha", "1.0", text="ours")
    other.add("alpha", "1.0", text="theirs")

    named = await builder.ensure(requirements=f"--extra-index-url https://{host}/simple\nbeta")
    plain = await builder.ensure("beta")

    assert versions(named.ready["path"]) == "1.0 theirs 1.0"
    assert versions(plain.ready["path"]) == "1.0 ours 1.0"
    assert named.ready["key"] != plain.ready["key"]


async def test_an_index_in_the_place_of_the_operators_is_the_only_one(builder, index, other, host):
    index.add("beta", "1.0")
    other.add("alpha", "2.0", text="theirs")

    answer = await builder.ensure(requirements=f"-i https://{host}/simple\nalpha\nbeta # req.txt:3")

    assert answer.failure == "pip: there is no package beta in the package index (req.txt, line 3)"


async def test_a_lock_names_the_index_that_it_was_made_with(builder, index, other, host):
    index.add("beta", "1.0")
    other.add("alpha", "1.0", text="theirs")
    first = await builder.ensure(requirements=f"--extra-index-url https://{host}/simple\nalpha\nbeta")
    lock = (await builder.call("GET", f"/environments/{first.ready['key']}"))["lock"]

    again = await builder.ensure(requirements=lock)

    assert f"--extra-index-url https://{host}/simple\n" in lock
    assert again.ready == {**first.ready, "cached": True}
