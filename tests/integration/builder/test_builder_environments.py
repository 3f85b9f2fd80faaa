"""Environments, from request to directory, through the real builder, Postgres, NATS and uv."""

import asyncio
import http.server
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from spell_proto import bus, codec, subjects
from spell_proto.commands import BuildEnvironment
from spell_proto.errors import NotFoundError
from spell_proto.spec import EnvironmentRequest
from support import stack
from support.builder_process import BuilderProcess

pytestmark = pytest.mark.integration


def python_in(path: str, program: str) -> str:
    return subprocess.check_output([f"{path}/bin/python", "-c", program], text=True).strip()


async def eventually(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not await condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.05)


async def test_no_packages_give_a_bare_environment_whose_python_runs(builder):
    ready = (await builder.ensure()).ready

    assert python_in(ready["path"], "import sys; print(sys.prefix)") == ready["path"]
    assert (await builder.resolved())["key"] == ready["key"]


async def test_a_package_and_what_it_needs_are_there_at_the_newest_fitting_version(builder, index):
    index.add("alpha", "1.0")
    index.add("alpha", "2.0")
    index.add("beta", "1.0", requires=("alpha<2",))

    answer = await builder.ensure("beta")

    assert answer.ready["cached"] is False
    assert python_in(answer.ready["path"], "import alpha; print(alpha.VERSION)") == "1.0"
    assert any("beta==1.0" in line for line in answer.lines)


async def test_twenty_equal_requests_at_once_cause_one_build_and_all_see_its_lines(builder, index):
    index.add("alpha", "1.0")

    answers = await asyncio.gather(*(builder.ensure("alpha") for _ in range(20)))

    assert len({answer.ready["key"] for answer in answers}) == 1
    assert all(any("alpha==1.0" in line for line in answer.lines) for answer in answers)
    assert builder.log.read_text().count('"event":"environment built"') == 2  # this one and the bare one


async def test_two_builders_on_one_directory_build_an_environment_once(builder, index, postgres, nats):
    index.add("alpha", "1.0")
    other = BuilderProcess(builder.data.parent, postgres, nats, name="other")
    other.environment = builder.environment
    await other.start()
    try:
        answers = await asyncio.gather(*(one.ensure("alpha") for one in (builder, other, builder, other)))
    finally:
        await other.end()

    assert len({answer.ready["path"] for answer in answers}) == 1
    logs = builder.log.read_text() + other.log.read_text()
    assert logs.count(f'"key":"{answers[0].ready["key"]}"') == 1


async def test_an_equal_request_reuses_its_versions_although_newer_ones_exist_by_now(builder, index):
    index.add("alpha", "1.0")
    first = await builder.ensure("alpha")
    index.add("alpha", "2.0")

    again = await builder.ensure("alpha")

    assert again.ready == {**first.ready, "cached": True}
    assert await builder.resolved("alpha") == {"key": first.ready["key"], "path": first.ready["path"]}


async def test_a_resolution_that_is_too_old_is_made_again(builder, index, postgres):
    index.add("alpha", "1.0")
    first = await builder.ensure("alpha")
    index.add("alpha", "2.0")
    connection = await asyncpg.connect(postgres.url("builder"))
    await connection.execute("UPDATE builder.requests SET resolved_at = now() - interval '25 hours'")
    await connection.close()
    await builder.end()
    await builder.start()

    with pytest.raises(NotFoundError):
        await builder.resolved("alpha")
    again = await builder.ensure("alpha")

    assert again.ready["key"] != first.ready["key"]
    assert python_in(again.ready["path"], "import alpha; print(alpha.VERSION)") == "2.0"


async def test_a_directory_that_vanished_is_built_again_with_the_same_versions(builder, index):
    index.add("alpha", "1.0")
    first = await builder.ensure("alpha")
    index.add("alpha", "2.0")
    subprocess.run(["chmod", "-R", "u+w", first.ready["path"]], check=True)  # it is read-only
    subprocess.run(["rm", "-rf", first.ready["path"]], check=True)

    with pytest.raises(NotFoundError):
        await builder.resolved("alpha")
    again = await builder.ensure("alpha")

    assert again.ready == first.ready
    assert python_in(again.ready["path"], "import alpha; print(alpha.VERSION)") == "1.0"


async def test_an_environment_is_read_only_and_shares_no_file_with_the_cache(builder, index):
    index.add("alpha", "1.0")

    path = Path((await builder.ensure("alpha")).ready["path"])

    module = next(path.glob("lib/python*/site-packages/alpha.py"))
    assert module.stat().st_nlink == 1
    writable = [
        entry
        for entry in path.rglob("*")
        if not entry.is_symlink() and stat.S_IMODE(entry.stat().st_mode) & 0o222
    ]
    assert writable == []
    assert list(module.parent.glob("__pycache__/alpha.*.pyc"))


async def test_the_known_misnomer_of_scikit_learn_is_corrected_with_one_line(builder, index):
    index.add("scikit-learn", "1.9")

    answer = await builder.ensure("sklearn>=1")

    assert python_in(answer.ready["path"], "import scikit_learn as s; print(s.VERSION)") == "1.9"
    assert [line for line in answer.lines if "sklearn" in line] == [
        "sklearn is called scikit-learn in the package index; installing scikit-learn"
    ]


@pytest.mark.parametrize(
    ("pip", "sentence"),
    [
        (("nowhere",), "pip: there is no package nowhere in the package index"),
        (("alpha==9",), "pip: there is no version of alpha==9 in the package index for this Python"),
        (("broken",), "pip: broken==1.0 cannot be built: RuntimeError: no compiler here"),
    ],
)
async def test_a_failure_names_the_package_and_the_reason(builder, index, pip, sentence):
    index.add("alpha", "1.0")
    index.add_broken("broken", "1.0", "no compiler here")

    answer = await builder.ensure(*pip)

    assert answer.failure == sentence


async def test_packages_that_exclude_each_other_fail_with_both_names(builder, index):
    index.add("alpha", "1.0")
    index.add("alpha", "2.0")
    index.add("beta", "1.0", requires=("alpha<2",))

    answer = await builder.ensure("beta", "alpha>1")

    assert answer.failure.startswith("pip: the packages do not go together: ")
    assert "beta" in answer.failure
    assert "alpha" in answer.failure


class FlakyIndex(http.server.SimpleHTTPRequestHandler):
    """Serves files, after it has been out of order for the first few requests."""

    failures = 0
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if type(self).failures > 0:
            type(self).failures -= 1
            self.send_error(503)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def flaky(directory: Path, failures: int) -> Iterator[str]:
    FlakyIndex.failures = failures
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(FlakyIndex, directory=directory)
    ) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://user:secret@127.0.0.1:{server.server_address[1]}/simple"
        server.shutdown()
        thread.join()


async def test_an_index_that_is_out_of_order_for_a_moment_costs_a_retry_and_no_more(builder, index):
    index.add("alpha", "1.0")
    with flaky(index.directory, failures=2) as url:
        builder.environment |= {"UV_DEFAULT_INDEX": url, "UV_HTTP_RETRIES": "0"}
        await builder.end()
        await builder.start()

        answer = await builder.ensure("alpha")

    assert answer.ready["cached"] is False
    retries = [line for line in answer.lines if "trying again in" in line]
    assert len(retries) == 2
    assert not any("secret" in line for line in answer.lines)


async def test_without_the_index_an_old_environment_still_serves_an_equal_request(builder, index, postgres):
    index.add("alpha", "1.0")
    first = await builder.ensure("alpha")
    connection = await asyncpg.connect(postgres.url("builder"))
    await connection.execute("UPDATE builder.requests SET resolved_at = now() - interval '25 hours'")
    await connection.close()
    builder.environment |= {
        "UV_DEFAULT_INDEX": f"http://127.0.0.1:{stack.free_port()}/simple",
        "UV_HTTP_RETRIES": "0",
    }
    await builder.end()
    await builder.start()

    again = await builder.ensure("alpha")

    assert again.ready["path"] == first.ready["path"]


async def test_a_builder_killed_in_mid_build_leaves_nothing_half_made(builder, index):
    index.add("alpha", "1.0")
    killed = 0
    for delay in (0.02, 0.05, 0.1, 0.2):
        asking = asyncio.create_task(builder.ensure("alpha"))
        await asyncio.sleep(delay)
        await builder.end()
        killed += (await asking).outcome is None
        await builder.start()

    answer = await builder.ensure("alpha")

    assert killed > 0
    assert python_in(answer.ready["path"], "import alpha; print(alpha.VERSION)") == "1.0"
    left = [entry.name for entry in (builder.data / "environments").iterdir() if entry.name.startswith(".")]
    assert left == []


async def test_a_queued_run_has_its_environment_built_ahead(builder, index, nats):
    index.add("alpha", "1.0")
    command = BuildEnvironment(run_id=7, environment=EnvironmentRequest(pip=("alpha",)), cause="test")

    async with bus.connect(nats.service_url, "scheduler") as scheduler:
        await scheduler.ensure_streams()
        await scheduler.store(
            subjects.COMMANDS_FOR_BUILDER,
            codec.encode(command),
            message_id=os.urandom(8).hex(),
            stream=subjects.COMMANDS,
        )

        async def built():
            try:
                return bool(await builder.resolved("alpha"))
            except NotFoundError:
                return False

        await eventually(built)

    assert (await builder.ensure("alpha")).ready["cached"] is True


async def test_sigterm_ends_a_builder_with_0_while_it_builds(builder, index):
    index.add("alpha", "1.0")
    asking = asyncio.create_task(builder.ensure("alpha"))

    code = await builder.end(signal.SIGTERM)

    await asking
    assert code == 0
