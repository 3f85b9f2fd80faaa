"""A spot machine that has notice: it takes no more runs, ends those it has as a stop does, and keeps what they made."""

import asyncio
import re
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from integration.runner import shims
from integration.runner.room import in_docker, room
from support import metadata

pytestmark = pytest.mark.asyncio(loop_scope="session")
#: Ends by itself when it is told to, and leaves a file that says so.
ENDS_WELL = (
    "trap 'echo later > late; exit 3' TERM; echo sooner > early; echo up; while :; do sleep 0.05; done"
)
DEAF = "trap '' TERM; echo kept > early; echo up; while :; do sleep 0.05; done"
NOTED = "This spot machine is about to be taken away"


@asynccontextmanager
async def spot(services, notice: Path | str, **settings):
    """A spot machine that looks for a notice there."""
    given = {"SPELL_SPOT": "1", "SPELL_SPOT_NOTICE": str(notice), "SPELL_SPOT_GRACE_SECONDS": "1", **settings}
    async with room(services, **given) as here:
        yield here


@pytest.fixture(name="notice")
def _notice(tmp_path) -> Path:
    return tmp_path / "notice"


def warnings(here, text: str) -> int:
    return len(re.findall(text, here.runner.log.read_text()))


@pytest.mark.parametrize("isolation", shims.ISOLATIONS)
async def test_runs_of_a_machine_with_notice_are_saved_and_interrupted_and_others_wait(
    services, request, notice, isolation
):
    settings = {"SPELL_ISOLATION": isolation}
    if isolation == "docker":
        settings = in_docker(request.getfixturevalue("docker"))
    async with spot(services, notice, **settings, SPELL_SLOTS="8") as here:
        ends_well, deaf = [await here.create(command) for command in (ENDS_WELL, DEAF)]
        for run_id in (ends_well, deaf):
            await here.until_logged(run_id, b"up\n")

        notice.touch()
        views = [await here.until_final(run_id) for run_id in (ends_well, deaf)]

        said = [(view.state, view.reason, view.exit_code, view.message) for view in views]
        reclaimed = ("interrupted", "spot_reclaimed")
        assert said == [(*reclaimed, code, "its spot machine was reclaimed") for code in (3, 137)]
        assert await here.client.states(ends_well) == [
            *("requested", "building", "running", "saving", "pushing", "interrupted")
        ]
        assert await here.files(views[0]) == {"early": b"sooner\n", "late": b"later\n"}
        assert await here.files(views[1]) == {"early": b"kept\n"}
        assert f"{NOTED}: 1 s to end by itself" in await here.lines(ends_well)
        waits = await here.create("true")
        waiting = await here.client.get(waits)
        assert (waiting.state, waiting.queue_reason) == ("requested", "no_machine")
        for view in views:
            await here.assert_whole(view)

        notice.unlink()
        assert (await here.until_final(waits)).state == "complete"


async def test_amazons_metadata_is_asked_with_a_token_that_is_renewed(services):
    async with (
        metadata.serving() as cloud,
        spot(services, "aws", SPELL_SPOT_ENDPOINT=cloud.url) as here,
    ):
        run_id = await here.create(ENDS_WELL)
        await here.until_logged(run_id, b"up\n")
        await here.until_true(lambda: cloud.asked.count("action with a token") >= 2)
        assert cloud.asked.count("token") == 1, "a token is kept while it is good"
        cloud.tokens.clear()
        await here.until_true(lambda: cloud.asked.count("token") == 2)
        assert (await here.client.get(run_id)).state == "running"

        cloud.noticed = True
        view = await here.until_final(run_id)

        assert (view.state, view.exit_code) == ("interrupted", 3)
        assert await here.files(view) == {"early": b"sooner\n", "late": b"later\n"}


async def test_amazons_metadata_is_asked_without_a_token_where_none_is_given(services):
    async with metadata.serving() as cloud:
        cloud.gives_tokens = cloud.wants_tokens = False
        async with spot(services, "aws", SPELL_SPOT_ENDPOINT=cloud.url) as here:
            run_id = await here.create(ENDS_WELL)
            await here.until_logged(run_id, b"up\n")

            cloud.noticed = True

            assert (await here.until_final(run_id)).state == "interrupted"


@pytest.mark.parametrize("kind", ["gcp", "url"])
async def test_googles_metadata_and_a_url_give_notice(services, kind):
    async with metadata.serving() as cloud:
        settings = {"SPELL_SPOT_ENDPOINT": cloud.url} if kind == "gcp" else {}
        async with spot(services, "gcp" if kind == "gcp" else f"{cloud.url}/notice", **settings) as here:
            run_id = await here.create(ENDS_WELL)
            await here.until_logged(run_id, b"up\n")
            await here.until_true(lambda: len(cloud.asked) >= 2)
            assert (await here.client.get(run_id)).state == "running"

            cloud.noticed = True

            assert (await here.until_final(run_id)).state == "interrupted"


async def test_a_source_that_says_nothing_is_told_of_once_and_disturbs_no_run(services):
    async with metadata.serving() as cloud:
        cloud.broken = True
        async with spot(services, "aws", SPELL_SPOT_ENDPOINT=cloud.url) as here:
            view = await here.until_final(await here.create("echo fine > made"))
            await here.until_true(lambda: cloud.asked.count("action with a token") >= 3)

            assert (view.state, await here.files(view)) == ("complete", {"made": b"fine\n"})
            assert warnings(here, "nothing can be learned about notices") == 1
            cloud.broken = False
            await here.until_true(lambda: warnings(here, "notices can be learned about again"))


async def test_a_run_whose_command_has_not_started_is_interrupted_without_files(services, notice):
    async with spot(services, notice) as here:
        here.builder.known = False
        here.builder.release.clear()
        run_id = await here.create("echo never > made")
        await here.until_logged(run_id, b"Resolving")

        notice.touch()
        view = await here.until_final(run_id)

        assert (view.state, view.reason, view.manifest) == ("interrupted", "spot_reclaimed", None)
        assert (view.started_at, view.saved_files) == (None, None)
        await here.assert_whole(view)


async def test_a_run_that_was_just_handed_over_is_interrupted_without_a_start(services, notice):
    async with spot(services, notice, SPELL_HEARTBEAT_SECONDS="60") as here:
        here.runner.kill9()
        run_id = await here.create(f"echo started > {here.directory}/started")
        assert (await here.client.get(run_id)).state == "building"

        notice.touch()
        here.runner.start()

        assert (await here.until_final(run_id)).state == "interrupted"
        assert not (here.directory / "started").exists()


async def test_what_came_before_the_notice_counts_and_a_kill_always_does(services, notice):
    async with spot(
        services, notice, SPELL_SLOTS="8", SPELL_GRACE_SECONDS="60", SPELL_SPOT_GRACE_SECONDS="3"
    ) as here:
        here.front.held = re.compile("PUT /manifests")
        over = await here.create("echo made > file; exit 4")
        await here.until_state(over, "saving")
        stopped, killed = [await here.create(DEAF) for _ in range(2)]
        for run_id in (stopped, killed):
            await here.until_logged(run_id, b"up\n")
        await here.client.end(stopped, "stop")

        notice.touch()
        await here.until_logged(killed, NOTED.encode())
        await here.client.end(killed, "kill")
        assert (await here.until_final(killed)).state == "killed"
        assert (await here.client.get(over)).state == "saving"
        here.front.gate.set()
        views = [await here.until_final(run_id) for run_id in (over, stopped)]

        assert [(view.state, view.exit_code) for view in views] == [("complete", 4), ("stopped", 137)]
        assert await here.files(views[1]) == {"early": b"kept\n"}, "long before its 60 s were over"


@pytest.mark.parametrize("stands", [True, False])
async def test_a_runner_that_dies_in_the_middle_goes_on_with_it_whether_the_notice_still_stands(
    services, notice, stands
):
    async with spot(services, notice, SPELL_ISOLATION="unshare") as here:
        run_id = await here.create(DEAF)
        await here.until_logged(run_id, b"up\n")
        notice.touch()
        await here.until_logged(run_id, NOTED.encode())

        here.runner.kill9()
        await here.until_true(lambda: here.shim(run_id).ending)
        if not stands:
            notice.unlink()
        here.front.held = re.compile("PUT /manifests")
        here.runner.start()
        await here.until_true(lambda: "PUT /manifests" in here.front.asked)
        here.runner.kill9()
        here.front.gate.set()
        here.runner.start()
        view = await here.until_final(run_id)

        assert (view.state, view.reason) == ("interrupted", "spot_reclaimed")
        assert await here.files(view) == {"early": b"kept\n"}
        await here.assert_whole(view)


async def test_a_runner_that_is_told_to_stop_with_the_notice_saves_first(services, notice):
    """As where a cloud shuts a machine down with the notice. Without one a runner leaves its runs alone."""
    async with spot(services, notice) as here:
        run_id = await here.create(ENDS_WELL)
        await here.until_logged(run_id, b"up\n")

        notice.touch()
        assert await here.runner.stop() == 0
        view = await here.client.get(run_id)

        assert (view.state, view.exit_code) == ("interrupted", 3)
        assert await here.files(view) == {"early": b"sooner\n", "late": b"later\n"}
        assert warnings(here, "stopping for good")


async def test_a_notice_that_makes_no_sense_is_refused_at_the_start(services, notice):
    async with spot(services, notice) as here:
        await here.runner.stop()
        here.runner.start(SPELL_SPOT="0")

        assert await asyncio.to_thread(here.runner.process.wait, 20) == 78
        assert (
            warnings(here, "the setting SPELL_SPOT_NOTICE is for spot machines: it needs SPELL_SPOT=1") == 1
        )
