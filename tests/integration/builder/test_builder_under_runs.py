"""A run that is ended while its environment is built, on a whole stack: the machine lets go, and the build ends."""

import time

import pytest

from support.packages import alive
from support.standalone import prepared

pytestmark = pytest.mark.integration
GRACE_SECONDS = 1.0


def until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def test_the_build_of_a_run_that_was_ended_does_not_go_on(index, tmp_path):
    with prepared(unawaited_seconds=GRACE_SECONDS) as stack:
        stack.environment["UV_DEFAULT_INDEX"] = index.url
        stack.up()
        for verb in ("stop", "kill"):
            gate = tmp_path / verb
            index.add_from_source(verb, "1.0", gate=gate)
            run_id = stack.cast("--pip", verb, "true")
            until((gate / "started").exists)

            stack.spell(verb, str(run_id))
            run = stack.until_final(run_id)
            ended = time.monotonic()
            pids = [int(pid) for pid in (gate / "started").read_text().split()]
            until(lambda pids=pids: not [pid for pid in pids if alive(pid)])

            assert run["state"] == "killed"
            assert time.monotonic() - ended < GRACE_SECONDS + 3
        until(lambda: not list((stack.data / "builder" / "environments").glob(".*")))
        verified = stack.spell("verify", "--json")

        assert verified.rc == 0
        assert "I17" in verified.stdout
